"""Token sequences put end to end in rows, so that little is spent on padding and no sequence sees another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapreplace
from typing import Protocol
from weakref import WeakSet

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from r1lit.models.forward import inside_forward

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
    lengths = [len(item.ids) for item in items]
    if packing and len(items) > 1:
        require_apart(model)
        flat = model.config._attn_implementation in VARLEN
        passes = plan(lengths, tokens, lambda longest: tokens if flat else longest)
    else:
        passes = plan(lengths, tokens)
    for rows in passes:
        yield collate([[items[place] for place in row] for row in rows])


def plan(lengths: Sequence[int], tokens: int, row_tokens: Callable[[int], int] | None = None) -> list[list[list[int]]]:
    """Passes of rows of sequences: a pass begins with the longest sequence that is left, and the rows that it has room
    for are filled with the longest that still fit.

    Args:
        lengths: of the sequences.
        tokens: a pass holds at most so many, padding included, or one sequence.
        row_tokens: what a row holds, given its pass's longest sequence; None for one sequence a row.

    >>> plan([3, 9, 2, 5, 1], tokens=20, row_tokens=lambda longest: longest)
    [[[1], [3, 0, 4]], [[2]]]
    >>> plan([3, 9, 2, 5, 1], tokens=20)
    [[[1], [3]], [[0], [2], [4]]]
    """
    left = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    passes = []
    while left:
        longest = lengths[left[0]]
        width = longest if row_tokens is None else max(longest, min(tokens, row_tokens(longest)))
        rows: list[list[int]] = [[] for _ in range(max(1, tokens // width))]
        room = [width] * len(rows)
        over = []
        for place in left:
            row = next((row for row, free in enumerate(room) if free >= lengths[place]), None)
            if row is None:
                over.append(place)
                continue
            rows[row].append(place)
            room[row] = room[row] - lengths[place] if row_tokens else 0
        passes.append([row for row in rows if row])
        left = over
    return passes


def balance(lengths: Sequence[int], parts: int) -> list[list[int]]:
    """Every index into one of ``parts`` lists whose sums of length², which is what attention costs, are about equal.

    The longest that is left goes to the lightest list. The heaviest is then at most 4/3 - 1/(3 ``parts``) times as
    heavy as it has to be (Graham 1969, of jobs on machines), and no list is empty while there are as many indices.

    >>> balance([4, 5, 6, 7, 8], parts=2)
    [[4, 1], [3, 2, 0]]
    """
    lists: list[list[int]] = [[] for _ in range(parts)]
    heap = [(0, 0, part) for part in range(parts)]
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        weight, count, part = heap[0]
        lists[part].append(place)
        heapreplace(heap, (weight + lengths[place] ** 2, count + 1, part))
    return lists


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


@inside_forward
def _hidden(model: PreTrainedModel, ids: Tensor, **options: Tensor) -> Tensor:
    return model.base_model(input_ids=ids, use_cache=False, **options).last_hidden_state.float()


_PROBE_TOKENS = 12
