"""An optimiser's moments in 8 bits and in shards: what a checkpoint holds of them, and who can go on from it.

torchao cuts the part of a moment that a process holds into blocks of 256 numbers, each with a scale of its own, and
leaves a part that does not come out even, or is small, as it is. What a part is made of so depends on how many there
are, and a checkpoint holds each by itself: the same number of processes takes them up bit for bit. For another number
they are cut anew, which is exact too but where a part that was as it is goes into blocks: then the numbers are rounded
to 8 bits, as the next update would round them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from r1lit.distributed.shards import OwnReader, ShardsError

PACKED = ("codes", "scale", "qmap")
"""What torchao's tensor is made of: a code for each number, a scale for each block, and what the codes stand for."""

PLAIN = "plain"


def parts_of(moments: Mapping[str, DTensor]) -> dict[str, Tensor]:
    """What a checkpoint holds of this process's parts, by name."""
    return {
        f"{name}.part{_place(moment)[0]}.{kind}": content
        for name, moment in moments.items()
        for kind, content in _contents(moment.to_local()).items()
        if moment.to_local().numel()
    }


@torch.no_grad()
def take_up(folder: Path, moments: Mapping[str, DTensor]) -> None:
    """Fill this process's parts, whatever the moments were sharded like when they were saved.

    Raises:
        ShardsError: naming a moment that is not there.
    """
    reader, same = OwnReader(folder), {}
    for name, moment in moments.items():
        local, (_, first) = moment.to_local(), _place(moment)
        if not local.numel():
            continue
        contents, stored = _contents(local), _stored(reader, name)
        shapes = {kind: content.shape for kind, content in contents.items()}
        own = next((part for part in stored if part.first == first and part.shapes == shapes), None)
        if own is None:
            _cut_anew(name, local, first, _overlapping(reader, stored, first, first + local.shape[0]))
        else:
            same |= {f"{own.name}.{kind}": content for kind, content in contents.items()}
    reader.fill(same)


def _place(moment: DTensor) -> tuple[int, int]:
    """Which of a moment's parts this process holds, and the row that it begins at, as torch.chunk cuts."""
    (axis,) = (axis for axis, placement in enumerate(moment.placements) if placement.is_shard(0))
    number = moment.device_mesh.get_local_rank(axis)
    return number, number * -(-moment.shape[0] // moment.device_mesh.size(axis))


def _contents(local: Tensor) -> dict[str, Tensor]:
    """The plain tensors that a part consists of."""
    packed = hasattr(local, "codes")
    return {kind: getattr(local, kind) for kind in PACKED} if packed else {PLAIN: local}


@dataclass(frozen=True)
class _Part:
    """A part that lies in a checkpoint: rows from ``first`` up to ``last``."""

    name: str
    first: int
    shapes: Mapping[str, torch.Size]

    @property
    def last(self) -> int:
        return self.first + self.shapes[PLAIN if PLAIN in self.shapes else "codes"][0]


def _stored(reader: OwnReader, name: str) -> list[_Part]:
    """All parts of a moment, in their order."""
    parts: list[_Part] = []
    while shapes := reader.shapes([f"{name}.part{len(parts)}.{kind}" for kind in (*PACKED, PLAIN)]):
        first = parts[-1].last if parts else 0
        by_kind = {key.rpartition(".")[2]: shape for key, shape in shapes.items()}
        parts.append(_Part(f"{name}.part{len(parts)}", first, by_kind))
    return parts


def _overlapping(reader: OwnReader, stored: list[_Part], first: int, last: int) -> list[dict[str, Tensor]]:
    """What the rows from ``first`` up to ``last`` consist of, in the parts that they lie in."""
    pieces = []
    for part in stored:
        start, stop = max(first, part.first), min(last, part.last)
        if start < stop:
            contents = reader.read([f"{part.name}.{kind}" for kind in part.shapes])
            named = {key.rpartition(".")[2]: content for key, content in contents.items()}
            pieces.append(_rows(named, start - part.first, stop - part.first))
    return pieces


def _rows(contents: dict[str, Tensor], start: int, stop: int) -> dict[str, Tensor]:
    """Some rows of a part: its codes and their scales where they end between blocks, else plain numbers."""
    if PLAIN in contents:
        return {PLAIN: contents[PLAIN][start:stop]}
    codes, scale = contents["codes"], contents["scale"]
    block, width = codes.numel() // scale.numel(), codes.shape[1:].numel()
    if start * width % block or stop * width % block:
        return {PLAIN: _numbers(contents)[start:stop]}
    return contents | {"codes": codes[start:stop], "scale": scale[start * width // block : stop * width // block]}


def _numbers(contents: dict[str, Tensor]) -> Tensor:
    """float32, what a part stands for."""
    if PLAIN in contents:
        return contents[PLAIN].float()
    from torchao.optim.quant_utils import dequant_with_qmap

    return dequant_with_qmap(*(contents[kind] for kind in ("codes", "qmap", "scale")))


def _cut_anew(name: str, local: Tensor, first: int, pieces: list[dict[str, Tensor]]) -> None:
    """Fill a part from the rows of others that it consists of."""
    found = sum(next(iter(piece.values())).shape[0] for piece in pieces)
    if found != local.shape[0]:
        raise ShardsError(f"of {name} the checkpoint holds {found} of {local.shape[0]} rows from row {first} on")
    contents = _contents(local)
    if any(PLAIN in piece for piece in (*pieces, contents)):
        local.copy_(torch.cat([_numbers(piece) for piece in pieces]).to(local.device))
        return
    contents["qmap"].copy_(pieces[0]["qmap"])
    for kind in ("codes", "scale"):
        contents[kind].copy_(torch.cat([piece[kind] for piece in pieces]))
