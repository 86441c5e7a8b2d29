"""Measures by how much the sampler's log-probs differ from the policy's, and corrects the surrogate for it."""

from __future__ import annotations

import torch
from torch import Tensor

from r1lit.distributed.ranks import ALONE, Ranks
from r1lit.functional.sampling_correction import sampling_difference, sampling_ratio
from r1lit.modules.settings import AlgorithmSettings
from r1lit.rollout.sampler import Sampler

DIFFERENCE, RATIO = "sampling/sampling_logp_difference", "sampling/importance_sampling_ratio"
"""TRL's names."""


class Mismatch:
    """Of one run: what is corrected, and what a step has measured so far.

    Args:
        algorithm: its ``sampling_correction`` and the bounds.
        sampler: where its log-probs are the trainer's own nothing is measured, and ``auto`` corrects nothing.
        staleness: steps by which the sampled policy is older than the trained one; above 0 ``auto`` corrects tokens,
            since the ratio of a long sequence strays too far from 1 to keep it.

    Attributes:
        exact: whether the sampler's log-probs are those of the policy before its update, by the trainer.
        mode: what is corrected, ``none`` for nothing.
        wanted: whether an update needs the sampler's log-probs.
    """

    def __init__(self, algorithm: AlgorithmSettings, sampler: Sampler, staleness: int = 0):
        chosen = algorithm.sampling_correction
        self.exact = sampler.exact_logprobs and not staleness
        default = "none" if self.exact else "token_truncate" if staleness else "sequence_mask"
        self.mode = default if chosen == "auto" else chosen
        self.wanted = self.mode != "none" or not self.exact
        self._bounds = algorithm.sampling_correction_min, algorithm.sampling_correction_max
        self._differences: list[Tensor] = []
        self._ratios: list[Tensor] = []

    def correction(self, logprobs: Tensor, sampling_logprobs: Tensor | None, mask: Tensor) -> Tensor | None:
        """What the surrogate is multiplied with; None for nothing. The mismatch is noted.

        Shapes: logprobs (of the policy that sampled, by the trainer) and sampling_logprobs [n, T], mask bool [n, T],
        True = trained -> [n, T] or [n, 1].
        """
        if sampling_logprobs is None:
            return None
        self._differences.append(_extent(sampling_difference(logprobs, sampling_logprobs, mask)))
        if self.mode == "none":
            return None
        ratio = sampling_ratio(logprobs, sampling_logprobs, mask, self.mode, *self._bounds)
        self._ratios.append(_extent(ratio[mask] if ratio.shape == mask.shape else ratio.flatten()))
        return ratio

    def read(self, ranks: Ranks = ALONE) -> dict[str, float]:
        """The step's metrics, under TRL's names, of all processes; the next step begins anew."""
        if not self.wanted:
            return {}
        metrics = {}
        noted = ranks.gather([[part.cpu() for part in parts] for parts in (self._differences, self._ratios)])
        differences, ratios = ([part for each in noted for part in each[kind]] for kind in (0, 1))
        if differences:
            _, mean, largest = _summary(differences)
            metrics = {f"{DIFFERENCE}/mean": mean, f"{DIFFERENCE}/max": largest}
        if ratios:
            smallest, mean, largest = _summary(ratios)
            metrics |= {f"{RATIO}/min": smallest, f"{RATIO}/mean": mean, f"{RATIO}/max": largest}
        self._differences, self._ratios = [], []
        return metrics


def _extent(values: Tensor) -> Tensor:
    """[4]: smallest, sum, largest and number, kept on the device until they are read."""
    values = values.detach().float()
    if not values.numel():
        return torch.tensor([torch.inf, 0.0, -torch.inf, 0.0], device=values.device)
    count = torch.full((), values.numel(), dtype=torch.float32, device=values.device)
    return torch.stack([values.min(), values.sum(), values.max(), count])


def _summary(extents: list[Tensor]) -> tuple[float, float, float]:
    table = torch.stack(extents).double()
    count = table[:, 3].sum().item()
    if not count:
        return 0.0, 0.0, 0.0
    return table[:, 0].min().item(), table[:, 1].sum().item() / count, table[:, 2].max().item()
