"""The policy-gradient loss, composed of a ratio, a surrogate, a KL term and the tokens' weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from r1lit.functional.variants import pick

Metrics = dict[str, tuple[Tensor, Tensor]]
"""Metric name -> (sum, count), 0-dim and detached: add them over micro-batches and ranks, then divide."""


@dataclass(frozen=True)
class Objective:
    """Which loss is minimised: the choices are independent of each other. The defaults are GRPO's (2402.03300).

    Attributes:
        ratio_level: ``token``, or ``sequence`` (GSPO, 2507.18071).
        surrogate: ``clip`` (PPO, 1707.06347), ``cispo`` (2506.13585) or ``sapo`` (2511.20347).
        clip_low: the ratio is clipped at 1 - clip_low below; 1 and above leave that side open (R1: 10).
        clip_high: and at 1 + clip_high above; under ``cispo`` at clip_high itself. ``sapo`` uses neither.
        dual_clip: upper bound of the ratio whatever the advantage's sign, above 1 (2505.07291), or None.
        kl_coef: weight of the KL to the reference; 0 leaves it out.
        kl_estimator: ``k1``, ``k2`` or ``k3``.
        kl_corrected: multiply the KL by the ratio, which makes its gradient unbiased (DeepSeek-V3.2, 2512.02556).
        sapo_positive, sapo_negative: the gate's temperatures where the advantage is above 0, and elsewhere.

    Raises:
        ValueError: where a name is unknown or a number out of its range.
    """

    ratio_level: str = "token"
    surrogate: str = "clip"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    kl_coef: float = 0.0
    kl_estimator: str = "k3"
    kl_corrected: bool = False
    sapo_positive: float = 1.0
    sapo_negative: float = 1.05

    def __post_init__(self) -> None:
        pick("ratio_level", self.ratio_level, _RATIOS)
        pick("surrogate", self.surrogate, _SURROGATES)
        pick("kl_estimator", self.kl_estimator, _ESTIMATORS)
        for name in ("clip_low", "clip_high", "kl_coef"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)}, but it cannot be negative; pass {name} >= 0")
        for name in ("sapo_positive", "sapo_negative"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}, but the gate divides by it; pass {name} > 0")
        if self.surrogate == "cispo" and self.clip_high < 1:
            raise ValueError(
                f"clip_high={self.clip_high}, but cispo cuts the ratio at clip_high itself; set it to >= 1"
            )
        if self.dual_clip is not None and not self.dual_clip > 1:
            raise ValueError(f"dual_clip={self.dual_clip}, but a ratio of 1 must pass it; set dual_clip > 1, or None")


def importance_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, level: str = "token") -> Tensor:
    """pi_theta / pi_old: of each token, or the geometric mean over a row's tokens (GSPO, 2507.18071, eq. 7).

    Shapes: logprobs, old_logprobs [n, T], mask bool [n, T], True = trained -> [n, T] for ``token``, 1 where not
    trained; [n, 1] for ``sequence``, 1 for a row without a trained token.

    Raises:
        ValueError: where the level is unknown.

    >>> importance_ratio(torch.zeros(1, 2), -torch.tensor([[1.0, 4.0]]).log(), torch.tensor([[True, True]]), "sequence")
    tensor([[2.]])
    """
    log_ratio = (logprobs - old_logprobs).masked_fill(~mask, 0.0)
    return pick("level", level, _RATIOS)(log_ratio, mask).exp()


def clipped(ratio: Tensor, advantages: Tensor, low: float, high: float, dual: float | None = None) -> Tensor:
    """PPO's clipped surrogate ``min(r A, clip(r, 1 - low, 1 + high) A)`` (1707.06347, eq. 7), to be maximised.

    Shapes: ratio [n, T] or [n, 1], advantages [n, 1] -> the ratio's. ``dual`` bounds r from above in the first term,
    which the clip leaves unbounded where A < 0 (INTELLECT-2, 2505.07291; PPO's dual clip, 1912.09729).

    >>> clipped(torch.tensor([[0.5, 3.0]]), torch.tensor([[-1.0]]), 0.2, 0.2, dual=2.0)
    tensor([[-0.8000, -2.0000]])
    """
    bounded = ratio if dual is None else ratio.clamp(max=dual)
    return torch.min(bounded * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def cispo(ratio: Tensor, logprobs: Tensor, advantages: Tensor, high: float) -> Tensor:
    """``min(r, high) A log pi`` with the weight detached (MiniMax-M1, 2506.13585, eq. 4), to be maximised.

    No token loses its gradient, however far its ratio: only the weight is bounded, by ``high`` itself.

    Shapes: ratio [n, T] or [n, 1], logprobs [n, T], advantages [n, 1] -> [n, T].

    >>> cispo(torch.tensor([[9.0]]), torch.tensor([[-0.5]]), torch.tensor([[1.0]]), high=5.0)
    tensor([[-2.5000]])
    """
    return ratio.clamp(max=high).detach() * advantages * logprobs


def sapo(ratio: Tensor, advantages: Tensor, positive: float = 1.0, negative: float = 1.05) -> Tensor:
    """A soft gate in the place of the clip: ``4 / t sigmoid(t (r - 1)) A`` (SAPO, 2511.20347), to be maximised.

    Shapes: ratio [n, T] or [n, 1], advantages [n, 1] -> the ratio's. t is ``positive`` where A > 0, else ``negative``.

    >>> sapo(torch.tensor([[1.0]]), torch.tensor([[0.5]]))
    tensor([[1.]])
    """
    temperature = torch.full_like(advantages, negative).masked_fill(advantages > 0, positive)
    return torch.sigmoid(temperature * (ratio - 1)) * 4 / temperature * advantages


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, estimator: str = "k3") -> Tensor:
    """Estimate of KL(pi_theta || pi_ref) at each token drawn from pi_theta (http://joschu.net/blog/kl-approx.html).

    With d = log pi_ref - log pi_theta: ``k1`` -d, ``k2`` d^2 / 2, ``k3`` e^d - 1 - d. All in nats.

    Shapes: logprobs, ref_logprobs [n, T] -> [n, T].

    Raises:
        ValueError: where the estimator is unknown.

    >>> kl_estimate(torch.tensor([0.0]), torch.tensor([1.0]), "k3")
    tensor([0.7183])
    """
    return pick("estimator", estimator, _ESTIMATORS)(ref_logprobs - logprobs)


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor | None,
    ref_logprobs: Tensor | None,
    advantages: Tensor,
    weights: Tensor,
    mask: Tensor,
    objective: Objective,
    correction: Tensor | None = None,
) -> tuple[Tensor, Metrics]:
    """The loss of some rows of an update: ``sum(weights * (kl_coef * KL - surrogate))`` (2402.03300, eq. 3).

    A ``correction`` [n, T] or [n, 1], `sampling_ratio`, multiplies the surrogate and leaves the KL as it is.

    Shapes: logprobs, old_logprobs, ref_logprobs, weights [n, T], advantages [n], mask bool [n, T], True = trained ->
    a scalar. Without old_logprobs the rows are on-policy; without ref_logprobs, or with a kl_coef of 0, there is no KL.
    What stands at untrained positions, be it NaN, reaches neither the loss nor its gradient.

    Metrics are TRL's, as (sum, count): ``kl``; ``clip_ratio/low_mean``, ``high_mean`` and ``region_mean``, or
    ``cispo_clip_ratio``; one value a token, or a row where the ratio is a row's.
    """
    logprobs = logprobs.masked_fill(~mask, 0.0)
    old = logprobs.detach() if old_logprobs is None else old_logprobs
    advantages = advantages.unsqueeze(-1)
    ratio = importance_ratio(logprobs, old, mask, objective.ratio_level)
    surrogate, measured = _SURROGATES[objective.surrogate](ratio, logprobs, advantages, objective)
    per_token = -surrogate if correction is None else -surrogate * correction
    if ref_logprobs is not None and objective.kl_coef:
        kl = kl_estimate(logprobs, ref_logprobs.masked_fill(~mask, 0.0), objective.kl_estimator)
        kl = kl * ratio if objective.kl_corrected else kl
        per_token = per_token + objective.kl_coef * kl
        measured["kl"] = kl.detach()
    return (weights * per_token).sum(), {name: _total(value, mask) for name, value in measured.items()}


def _total(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    every = mask if values.shape == mask.shape else torch.ones_like(values, dtype=torch.bool)
    return values.float().masked_fill(~every, 0.0).sum(), every.sum().float()


def _sequence_log_ratio(log_ratio: Tensor, mask: Tensor) -> Tensor:
    return log_ratio.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)


def _clip_surrogate(
    ratio: Tensor, logprobs: Tensor, advantages: Tensor, objective: Objective
) -> tuple[Tensor, dict[str, Tensor]]:
    low, high, dual = objective.clip_low, objective.clip_high, objective.dual_clip
    bounded = ratio.detach() if dual is None else ratio.detach().clamp(max=dual)
    is_low, is_high = (bounded < 1 - low) & (advantages < 0), (bounded > 1 + high) & (advantages > 0)
    shares = {"low": is_low, "high": is_high, "region": is_low | is_high}
    return clipped(ratio, advantages, low, high, dual), {f"clip_ratio/{k}_mean": v for k, v in shares.items()}


def _cispo_surrogate(
    ratio: Tensor, logprobs: Tensor, advantages: Tensor, objective: Objective
) -> tuple[Tensor, dict[str, Tensor]]:
    is_clipped = (ratio.detach() > objective.clip_high) & (advantages > 0)
    return cispo(ratio, logprobs, advantages, objective.clip_high), {"cispo_clip_ratio": is_clipped}


def _sapo_surrogate(
    ratio: Tensor, logprobs: Tensor, advantages: Tensor, objective: Objective
) -> tuple[Tensor, dict[str, Tensor]]:
    return sapo(ratio, advantages, objective.sapo_positive, objective.sapo_negative), {}


_RATIOS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "token": lambda log_ratio, mask: log_ratio,
    "sequence": _sequence_log_ratio,
}
_SURROGATES = {"clip": _clip_surrogate, "cispo": _cispo_surrogate, "sapo": _sapo_surrogate}
_ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "k1": lambda d: -d,
    "k2": lambda d: d.square() / 2,
    "k3": lambda d: torch.expm1(d) - d,
}
