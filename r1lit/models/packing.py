"""Token sequences put end to end in rows, so that little is spent on padding and no sequence sees another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakSet

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

ROW_SEQUENCES = 4
"""A row is as long as so many of its longest sequence at the most: where attention is computed under a mask, its cost
grows with the row's length."""

VARLEN = ("flash_attention_2", "flash_attention_3")
"""Attention that computes nothing between sequences, of one row a pass."""

_APART: WeakSet[PreTrainedModel] = WeakSet()


class Sequenced(Protocol):
    """A sequence of tokens, and which of them are targets."""

    @property
    def ids(self) -> Sequence[int]: ...

    @property
    def trained(self) -> Sequence[bool]: ...


@dataclass(frozen=True)
class Packed:
    """What a pass through the model takes.

    Attributes:
        input_ids: int64 [n, L], right-padded.
        position_ids: int64 [n, L], from 0 in each sequence, and in the padding; None where every row is one sequence.
        target_mask: bool [n, L - 1], True where the next token is a target; never across two sequences.
    """

    input_ids: Tensor
    position_ids: Tensor | None
    target_mask: Tensor

    def to(self, device: torch.device) -> Packed:
        moved = (None if value is None else value.to(device) for value in vars(self).values())
        return Packed(*moved)


def micro_batches(model: PreTrainedModel, items: Sequence[Sequenced], tokens: int, packing: bool) -> Iterator[Packed]:
    """The items in passes of at most ``tokens`` tokens, padding included (or of one sequence, where that is longer).

    Every item is in one of them. Which goes where depends on the lengths alone.

    Raises:
        ValueError: where the model does not keep the sequences of a row apart.
    """
    flat = getattr(model.config, "_attn_implementation", None) in VARLEN
    lengths = [len(item.ids) for item in items]
    if packing and len(items) > 1:
        require_apart(model)
        rows = plan_rows(lengths, tokens, longest=None if flat else ROW_SEQUENCES)
    else:
        rows = [[place] for place in sorted(range(len(items)), key=lambda place: -lengths[place])]
    # Flash-attention takes one row of several sequences, and any number of rows of one.
    for part in plan_passes([sum(lengths[place] for place in row) for row in rows], tokens, single=flat and packing):
        yield collate([[items[place] for place in rows[number]] for number in part])


def plan_rows(lengths: Sequence[int], tokens: int, longest: int | None = None) -> list[list[int]]:
    """Which sequences share a row: first-fit decreasing, so the rows' first sequences are in falling order.

    Args:
        lengths: of the sequences.
        tokens: a row holds at most so many, or one sequence.
        longest: and at most so many times its longest sequence.

    >>> plan_rows([3, 9, 2, 5, 1], tokens=10)
    [[1, 4], [3, 0, 2]]
    >>> plan_rows([1, 1, 1, 1, 1], tokens=10, longest=2)
    [[0, 1], [2, 3], [4]]
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        length = lengths[place]
        fitting = next((number for number, free in enumerate(room) if free >= length), None)
        if fitting is None:
            rows.append([place])
            room.append(min(tokens, tokens if longest is None else longest * length) - length)
        else:
            rows[fitting].append(place)
            room[fitting] -= length
    return rows


def plan_passes(lengths: Sequence[int], tokens: int, single: bool = False) -> list[list[int]]:
    """Which rows go through the model together: the longest first, as many as make ``tokens`` tokens with padding.

    >>> plan_passes([4, 2, 8, 7], tokens=16)
    [[2, 3], [0, 1]]
    """
    passes: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        widest = lengths[passes[-1][0]] if passes else 0
        if passes and not single and widest * (len(passes[-1]) + 1) <= tokens:
            passes[-1].append(row)
        else:
            passes.append([row])
    return passes


def collate(rows: Sequence[Sequence[Sequenced]]) -> Packed:
    """Rows of sequences as tensors; padding follows every real token, so no mask is needed to keep it out."""
    ids, positions, targets = ([torch.cat(row) for row in kind] for kind in zip(*map(_tensors, rows), strict=True))
    packed = any(len(row) > 1 for row in rows)
    input_ids, target_mask = pad_sequence(ids, batch_first=True), pad_sequence(targets, batch_first=True)
    # Padding is a sequence of its own: its positions begin at 0 too.
    position_ids = torch.arange(input_ids.shape[1]).repeat(len(rows), 1)
    for row, places in enumerate(positions):
        position_ids[row] -= len(places)
        position_ids[row, : len(places)] = places
    return Packed(input_ids, position_ids if packed else None, target_mask[:, 1:])


def _tensors(row: Iterable[Sequenced]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Ids, positions and target flags of a row's sequences; a sequence's first token is nobody's target."""
    ids = [torch.tensor(item.ids, dtype=torch.long) for item in row]
    flags = [torch.tensor(item.trained, dtype=torch.bool) for item in row]
    for flag in flags:
        flag[0] = False
    return ids, [torch.arange(len(sequence)) for sequence in ids], flags


@torch.no_grad()
def require_apart(model: PreTrainedModel) -> None:
    """Prove, the first time it is asked, that sequences in one row come out as they do alone.

    transformers makes the mask that keeps them apart (or flash-attention's boundaries) from positions that restart; a
    model may take no positions, or make its masks in its own way.

    Raises:
        ValueError: naming the model.
    """
    if model in _APART:
        return
    weight = model.get_input_embeddings().weight
    ids = torch.arange(_PROBE_TOKENS, device=weight.device)[None] % weight.shape[0]
    first, second = ids.chunk(2, dim=1)
    positions = torch.arange(first.shape[1], device=weight.device).repeat(1, 2)
    # In the weights' own arithmetic: what leaks may be less than what autocast rounds away.
    with torch.autocast(weight.device.type, enabled=False):
        alone = torch.cat([_hidden(model, first), _hidden(model, second)], dim=1)
        try:
            together = _hidden(model, ids, position_ids=positions)
        except TypeError:
            together = torch.full_like(alone, torch.inf)
    exact = weight.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    tolerance = 1e-5 if exact else 5e-2
    if not torch.allclose(together, alone, rtol=0, atol=tolerance * float(alone.abs().max())):
        raise ValueError(
            f"{type(model).__name__} does not keep sequences apart that share a row, so they would be learnt from each "
            "other; set sft.packing=false"
        )
    _APART.add(model)


def _hidden(model: PreTrainedModel, ids: Tensor, **options: Tensor) -> Tensor:
    return model.base_model(input_ids=ids, use_cache=False, **options).last_hidden_state.float()


_PROBE_TOKENS = 12
