"""The mismatch between what drew the completions and the policy that learns from them, and its correction."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from r1lit.functional.variants import pick


def sampling_ratio(
    logprobs: Tensor,
    sampling_logprobs: Tensor,
    mask: Tensor,
    mode: str,
    low: float | None = None,
    high: float | None = None,
) -> Tensor:
    """pi_old / pi_sampled, bounded: what each token's surrogate is multiplied with.

    An inference engine computes the same weights' log-probs by other kernels in another precision, so it draws from a
    slightly different policy, which importance sampling corrects. A ratio is a ``token``'s, or a ``sequence``'s, the
    product over its tokens. One beyond its bounds is cut to them (``truncate``: truncated importance sampling, Ionides
    2008, doi 10.1198/106186008X320456; for this mismatch Yao et al. 2025, "Your Efficient RL Framework Secretly Brings
    You Off-Policy RL Training", fengyao.notion.site/off-policy-rl) or makes the weight 0 (``mask``: masked importance
    sampling, of sequences in Liu, Li et al. 2025, "When Speed Kills Stability: Demystifying RL Collapse from the
    Training-Inference Mismatch", richardli.xyz/rl-collapse). The formulas and names are those of TRL's
    ``vllm_importance_sampling_mode``.

    Shapes: logprobs (the policy's, before the update), sampling_logprobs [n, T], mask bool [n, T], True = trained ->
    [n, T], 1 where not trained, for ``token_truncate`` and ``token_mask``; [n, 1] for ``sequence_truncate`` and
    ``sequence_mask``. A token whose sampling log-prob is NaN counts as without mismatch. No gradient flows.

    Raises:
        ValueError: where the mode is unknown.

    >>> drawn, policy = torch.zeros(1, 2), torch.tensor([[1.0, 4.0]]).log()
    >>> every = torch.tensor([[True, True]])
    >>> sampling_ratio(policy, drawn, every, "token_truncate", high=3.0)
    tensor([[1., 3.]])
    >>> sampling_ratio(policy, drawn, every, "sequence_mask", high=3.0)
    tensor([[0.]])
    """
    level, bound = pick("mode", mode, _MODES)
    apart = (logprobs.detach() - sampling_logprobs).masked_fill(~mask, 0.0).nan_to_num(nan=0.0)
    return bound(level(apart).exp(), low, high)


def sampling_difference(logprobs: Tensor, sampling_logprobs: Tensor, mask: Tensor) -> Tensor:
    """|log pi_old - log pi_sampled| in nats of the M trained tokens, those without a sampling log-prob left out.

    Shapes: logprobs, sampling_logprobs [n, T], mask bool [n, T], True = trained -> [M].

    >>> sampling_difference(torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, 0.0]]), torch.tensor([[True, False]]))
    tensor([0.5000])
    """
    apart = (logprobs.detach() - sampling_logprobs).abs()[mask]
    return apart[~apart.isnan()]


def _truncate(ratio: Tensor, low: float | None, high: float | None) -> Tensor:
    return ratio if low is None and high is None else ratio.clamp(min=low, max=high)


def _mask(ratio: Tensor, low: float | None, high: float | None) -> Tensor:
    beyond = torch.zeros_like(ratio, dtype=torch.bool)
    beyond = beyond if low is None else beyond | (ratio < low)
    beyond = beyond if high is None else beyond | (ratio > high)
    return ratio.masked_fill(beyond, 0.0)


def _each(apart: Tensor) -> Tensor:
    return apart


def _row(apart: Tensor) -> Tensor:
    return apart.sum(-1, keepdim=True)


_MODES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, float | None, float | None], Tensor]]] = {
    "token_truncate": (_each, _truncate),
    "token_mask": (_each, _mask),
    "sequence_truncate": (_row, _truncate),
    "sequence_mask": (_row, _mask),
}
