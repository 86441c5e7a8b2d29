"""Token sequences put end to end in rows, so that little is spent on padding and no sequence sees another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heapreplace
from itertools import accumulate
from typing import Literal, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from r1lit.models.attention import VARLEN, attention_of, in_own_arithmetic
from r1lit.models.forward import inside_forward

Packing = Literal["auto", "packed", "padded"]

_APART: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


class Sequenced(Protocol):
    """A sequence of tokens, and which of them are targets."""

    @property
    def ids(self) -> Sequence[int] | Tensor: ...

    @property
    def trained(self) -> Sequence[bool] | Tensor: ...


@dataclass(frozen=True)
class Packed:
    """What a pass through the model takes.

    Attributes:
        input_ids: int64 [n, L], right-padded; padding follows every real token, so no mask is needed to keep it out.
        target_mask: bool [n, L - 1], True where the next token is a target; never across two sequences.
        position_ids: int64 [n, L], from 0 in each sequence, and in the padding; None where every row is one sequence.
        boundaries: int32 [S + 1], where the S sequences of a single row begin and end; None for several rows.
        longest: tokens of the longest sequence.
        places: of the sequences among the items that are packed, row by row.
    """

    input_ids: Tensor
    target_mask: Tensor
    position_ids: Tensor | None = None
    boundaries: Tensor | None = None
    longest: int = 0
    places: tuple[int, ...] = ()

    def to(self, device: torch.device) -> Packed:
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    def inputs(self, model: PreTrainedModel) -> dict[str, Tensor | int]:
        """What the model's forward takes, in transformers' names."""
        if self.position_ids is None:
            return {"input_ids": self.input_ids}
        placed = {"input_ids": self.input_ids, "position_ids": self.position_ids}
        if self.boundaries is None or attention_of(model) not in VARLEN:
            return placed
        ends = {"cu_seq_lens_q": self.boundaries, "cu_seq_lens_k": self.boundaries}
        return placed | ends | {"max_length_q": self.longest, "max_length_k": self.longest}


def micro_batches(
    model: PreTrainedModel, items: Sequence[Sequenced], tokens: int, packing: Packing = "auto"
) -> Iterator[Packed]:
    """The items in passes of at most ``tokens`` tokens, padding included (or of one sequence, where that is longer).

    Every item is in one of them. Which goes where depends on the lengths alone.

    Raises:
        ValueError: for ``packed`` where the model does not keep the sequences of a row apart.
    """
    lengths = [len(item.ids) for item in items]
    if packs(model, packing):
        # Without a kernel that skips what lies between sequences, a mask as wide as a row costs its square.
        flat = attention_of(model) in VARLEN
        passes = plan(lengths, tokens, lambda longest: tokens if flat else longest)
    else:
        passes = plan(lengths, tokens)
    for rows in passes:
        yield collate(items, rows)


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


def collate(items: Sequence[Sequenced], rows: Sequence[Sequence[int]]) -> Packed:
    """Some of the items as tensors, those of a row end to end."""
    places = tuple(place for row in rows for place in row)
    lengths = [len(items[place].ids) for place in places]
    part = Packed(
        input_ids=_padded([[torch.as_tensor(items[place].ids) for place in row] for row in rows]),
        target_mask=_padded([[_targets(items[place]) for place in row] for row in rows])[:, 1:],
        longest=max(lengths),
        places=places,
    )
    if len(places) == len(rows):
        return part
    # Padding is a sequence of its own: its positions begin at 0 too.
    width = part.input_ids.shape[1]
    positions = [[torch.arange(len(items[place].ids)) for place in row] for row in rows]
    filled = [[*row, torch.arange(width - sum(map(len, row)))] for row in positions]
    ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32) if len(rows) == 1 else None
    return replace(part, position_ids=_padded(filled), boundaries=ends)


def _padded(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """The tensors of each row end to end, and the rows padded on the right with 0."""
    return pad_sequence([torch.cat([*row]) for row in rows], batch_first=True)


def _targets(item: Sequenced) -> Tensor:
    """Which of its tokens are targets; the first is nobody's."""
    flags = torch.as_tensor(item.trained, dtype=torch.bool).clone()
    flags[0] = False
    return flags


def packs(model: PreTrainedModel, packing: Packing) -> bool:
    """Whether sequences share rows.

    Raises:
        ValueError: for ``packed`` where the model does not keep the sequences of a row apart.
    """
    if packing == "padded":
        return False
    apart = keeps_apart(model)
    if packing == "packed" and not apart:
        raise ValueError(
            f"model.packing=packed, but {type(model).__name__} does not keep sequences apart that share a row, so they "
            "would be learnt from each other; set model.packing=padded"
        )
    return apart


def keeps_apart(model: PreTrainedModel) -> bool:
    """Whether sequences in one row come out as they do alone: tried, the first time it is asked.

    transformers makes the mask that keeps them apart from positions that restart, and a varlen kernel is told where
    they end; a model may take no positions, or make its masks in its own way.
    """
    if model not in _APART:
        _APART[model] = _try_apart(model)
    return _APART[model]


@torch.no_grad()
def _try_apart(model: PreTrainedModel) -> bool:
    weight = model.get_input_embeddings().weight
    ids = torch.arange(_PROBE_TOKENS, device=weight.device) % weight.shape[0]
    items = [_Probe(half, half > 0) for half in ids.cpu().chunk(2)]
    # What leaks may be less than what autocast rounds away.
    varlen = attention_of(model) in VARLEN
    with in_own_arithmetic(model):
        alone = torch.cat([_hidden(model, collate(items, [[place]])) for place in (0, 1)], dim=1)
        try:
            together = _hidden(model, collate(items, [[0, 1]]))
        except TypeError:
            return False
    exact = weight.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest" and not varlen
    tolerance = 1e-5 if exact else 5e-2
    return torch.allclose(together, alone, rtol=0, atol=tolerance * float(alone.abs().max()))


@dataclass(frozen=True)
class _Probe:
    ids: Tensor
    trained: Tensor


@inside_forward
def _hidden(model: PreTrainedModel, part: Packed) -> Tensor:
    # Here weights are where they compute, which is not where shards lie that the host's memory keeps.
    part = part.to(model.get_input_embeddings().weight.device)
    return model.base_model(**part.inputs(model), use_cache=False).last_hidden_state.float()


_PROBE_TOKENS = 12
