"""From a scored rollout to the minibatches of an update: plain data and index arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from r1lit.functional import token_weights
from r1lit.types import Minibatch, Rollout, Scored, Trajectory


@dataclass(frozen=True)
class Experience:
    """What a step learns from.

    Attributes:
        scored: the rollout and its rewards.
        rows: int64, the rows that are trained on; those of groups that were left out are not among them.
        advantages: float32 [N], 0 for rows that are left out.
        trained: bool [N, T], True = a token that the loss counts.
        old_logprobs: float32 [N, T] under the sampling policy, or None where the update is on-policy.
        ref_logprobs: float32 [N, T] under the reference, or None without KL.
    """

    scored: Scored
    rows: Tensor
    advantages: Tensor
    trained: Tensor
    old_logprobs: Tensor | None = None
    ref_logprobs: Tensor | None = None

    def minibatches(
        self, parts: int, epochs: int, aggregation: str, constant: int, generator: torch.Generator
    ) -> Iterator[Minibatch]:
        """Split the rows at random into ``parts`` minibatches, ``epochs`` times over, each row once an epoch."""
        for _ in range(epochs):
            order = torch.randperm(len(self.rows), generator=generator).to(self.rows.device)
            for rows in self.rows[order].tensor_split(parts):
                if len(rows):
                    yield self.minibatch(rows, aggregation, constant)

    def minibatch(self, rows: Tensor, aggregation: str, constant: int) -> Minibatch:
        """The rows of one update, each token with its share of the whole update's loss."""
        rollout = self.scored.rollout
        width = int(rollout.lengths[rows].max())

        def columns(table: Tensor | None) -> Tensor | None:
            return None if table is None else table[rows, :width]

        return Minibatch(
            trajectories=trajectories(rollout, rows),
            completion_mask=columns(rollout.completion_mask),
            advantages=self.advantages[rows],
            weights=token_weights(columns(self.trained), aggregation, constant),
            old_logprobs=columns(self.old_logprobs),
            ref_logprobs=columns(self.ref_logprobs),
        )


def row_lengths(rollout: Rollout) -> Tensor:
    """int64 [N], tokens of prompt and completion."""
    lengths = rollout.lengths
    return lengths + torch.tensor([len(ids) for ids in rollout.prompt_ids], device=lengths.device)


def trajectories(rollout: Rollout, rows: Tensor) -> tuple[Trajectory, ...]:
    """Prompt and completion of some rows."""
    prompts, completions = rollout.prompt_ids, rollout.completion_ids[rows].cpu()
    made = []
    for row, completion, length in zip(rows.tolist(), completions, rollout.lengths[rows].tolist(), strict=True):
        ids = torch.cat([torch.tensor(prompts[row]), completion[:length]])
        made.append(Trajectory(ids, torch.arange(len(ids)) >= len(prompts[row])))
    return tuple(made)


def take(minibatch: Minibatch, places: Sequence[int]) -> Minibatch:
    """Some rows of a minibatch, in this order, as narrow as the longest of their completions allows."""
    rows = torch.tensor(places, device=minibatch.advantages.device)
    width = int(minibatch.completion_mask[rows].sum(-1).max())
    part = {"trajectories": tuple(minibatch.trajectories[place] for place in places)}
    for name, value in vars(minibatch).items():
        if isinstance(value, Tensor):
            part[name] = value[rows] if value.dim() == 1 else value[rows, :width]
    return replace(minibatch, **part)


def concatenate(parts: Sequence[Scored]) -> Scored:
    """Several scored rollouts of one policy as one; their failures add up."""
    rollouts = [part.rollout for part in parts]
    width = max(rollout.completion_ids.shape[1] for rollout in rollouts)

    def stack(name: str) -> Tensor:
        tables = [getattr(rollout, name) for rollout in rollouts]
        return torch.cat([torch.nn.functional.pad(table, (0, width - table.shape[1])) for table in tables])

    failures: dict[str, Counter[str]] = {}
    for part in parts:
        for name, reasons in part.failures.items():
            failures.setdefault(name, Counter()).update(reasons)
    return replace(
        parts[0],
        rollout=replace(
            rollouts[0],
            groups=tuple(group for rollout in rollouts for group in rollout.groups),
            completion_ids=stack("completion_ids"),
            completion_mask=stack("completion_mask"),
            logprobs=stack("logprobs"),
        ),
        columns=torch.cat([part.columns for part in parts]),
        failures=failures,
    )
