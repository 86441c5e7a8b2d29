"""From a scored rollout to the minibatches of an update: plain data and index arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from r1lit.distributed.ranks import Ranks
from r1lit.functional import token_weights
from r1lit.types import Minibatch, Rollout, Scored


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
        """The rows of one update, longest first, each token with its share of the whole update's loss."""
        rollout = self.scored.rollout
        rows = rows[torch.argsort(row_lengths(rollout)[rows], descending=True, stable=True)]
        input_ids, target_mask = collate(rollout, rows)
        width = int(rollout.lengths[rows].max())

        def columns(table: Tensor | None) -> Tensor | None:
            return None if table is None else table[rows, :width]

        return Minibatch(
            input_ids=input_ids,
            target_mask=target_mask,
            completion_mask=columns(rollout.completion_mask),
            advantages=self.advantages[rows],
            weights=token_weights(columns(self.trained), aggregation, constant),
            old_logprobs=columns(self.old_logprobs),
            ref_logprobs=columns(self.ref_logprobs),
        )


def row_lengths(rollout: Rollout) -> Tensor:
    """int64 [N], tokens of prompt and completion: rows of like length together waste little on padding."""
    lengths = rollout.lengths
    return lengths + torch.tensor([len(ids) for ids in rollout.prompt_ids], device=lengths.device)


def collate(rollout: Rollout, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Prompt and completion of some rows in one right-padded tensor.

    Returns:
        input_ids int64 [n, L] and target_mask bool [n, L - 1], True where the next token is a completion token.
        Padding follows every real token, so causal attention needs no mask to keep it out.
    """
    device = rollout.completion_ids.device
    prompts, indices = rollout.prompt_ids, rows.tolist()
    starts = torch.tensor([len(prompts[row]) for row in indices], device=device)
    ends = starts + rollout.lengths[rows]
    sequences = [
        torch.cat(
            [torch.tensor(prompts[row], device=device), rollout.completion_ids[row][rollout.completion_mask[row]]]
        )
        for row in indices
    ]
    input_ids = pad_sequence(sequences, batch_first=True)
    position = torch.arange(1, input_ids.shape[1], device=device)
    return input_ids, (position >= starts[:, None]) & (position < ends[:, None])


def own_rows(minibatch: Minibatch, ranks: Ranks) -> tuple[Minibatch, Minibatch]:
    """This process's rows of a minibatch, in its order, and its shortest row, for a pass that is to count for nothing.

    A token's weight stays its share of the whole update's loss.
    """
    if ranks.size == 1:
        return minibatch, minibatch
    mask = minibatch.target_mask
    ends = mask.shape[1] - mask.flip(-1).int().argmax(-1)
    rows = torch.tensor(sorted(ranks.own((ends + 1).tolist())), dtype=torch.long, device=mask.device)
    last = torch.tensor([len(mask) - 1], device=mask.device)
    return tuple(
        Minibatch(**{name: None if value is None else value[kept] for name, value in vars(minibatch).items()})
        for kept in (rows, last)
    )


def split(minibatch: Minibatch, rows: int) -> Iterator[Minibatch]:
    """Cut a minibatch into micro-batches of at most ``rows`` rows, each as narrow as its longest row allows."""
    for start in range(0, len(minibatch.advantages), rows):
        part = Minibatch(
            **{name: None if value is None else value[start : start + rows] for name, value in vars(minibatch).items()}
        )
        length = int(part.target_mask.any(0).nonzero().max()) + 1
        width = int(part.completion_mask.sum(-1).max())
        yield replace(
            part,
            input_ids=part.input_ids[:, : length + 1],
            target_mask=part.target_mask[:, :length],
            **{
                name: None if (table := getattr(part, name)) is None else table[:, :width]
                for name in ("completion_mask", "weights", "old_logprobs", "ref_logprobs")
            },
        )


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
