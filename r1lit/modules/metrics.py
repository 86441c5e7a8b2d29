"""What a step reports, under the names TRL gave its metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from r1lit.distributed.ranks import ALONE, Ranks
from r1lit.functional import has_variance
from r1lit.types import Scored


class Means:
    """Averages over the micro-batches of a step, each given as a sum and a count, kept on the device until read."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, Tensor | float] = defaultdict(float)
        self._counts: defaultdict[str, Tensor | float] = defaultdict(float)

    def add(self, parts: Mapping[str, tuple[Tensor | float, Tensor | float]]) -> None:
        """Add ``{name: (sum, count)}``."""
        for name, (total, count) in parts.items():
            self._sums[name] = self._sums[name] + total
            self._counts[name] = self._counts[name] + count

    def read(self, ranks: Ranks = ALONE) -> dict[str, float]:
        """Every mean as a float, over what all processes added."""
        sums: defaultdict[str, float] = defaultdict(float)
        counts: defaultdict[str, float] = defaultdict(float)
        for table in ranks.gather({name: (float(self._sums[name]), float(self._counts[name])) for name in self._sums}):
            for name, (total, count) in table.items():
                sums[name] += total
                counts[name] += count
        return {name: total / max(counts[name], 1e-12) for name, total in sums.items()}


def rollout_metrics(scored: Scored) -> dict[str, float]:
    """Rewards, lengths and group statistics of one scored rollout."""
    rollout, totals = scored.rollout, scored.totals
    lengths = rollout.lengths.float()
    truncated = rollout.truncated.to(lengths.device)
    finished = lengths[~truncated]
    varied = has_variance(scored.columns, scored.weights, rollout.group_size)
    metrics = {
        "reward": totals.mean().item(),
        "reward_std": totals.view(-1, rollout.group_size).std(-1).mean().item(),
        "frac_reward_zero_std": 1.0 - varied.float().mean().item(),
        "num_tokens": lengths.sum().item(),
        "completions/mean_length": lengths.mean().item(),
        "completions/min_length": lengths.min().item(),
        "completions/max_length": lengths.max().item(),
        "completions/mean_terminated_length": finished.mean().item() if len(finished) else 0.0,
        "completions/clipped_ratio": truncated.float().mean().item(),
    }
    for name in scored.names:
        metrics |= _reward_metrics(name, scored.column(name), scored.failures.get(name, {}))
    return metrics


def _reward_metrics(name: str, column: Tensor, failures: Mapping[str, int]) -> dict[str, float]:
    given = column[~torch.isnan(column)]
    metrics = {f"rewards/{name}/none": 1.0 - len(given) / len(column)}
    if len(given):
        metrics[f"rewards/{name}/mean"] = given.mean().item()
        metrics[f"rewards/{name}/std"] = given.std(correction=0).item()
    if failures:
        metrics[f"rewards/{name}/failed"] = float(sum(failures.values()))
    return metrics
