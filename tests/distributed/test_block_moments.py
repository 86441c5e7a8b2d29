"""8-bit moments cut in one way, saved, and taken up in another; the processes are played one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from torchao.optim.subclass_8bit import OptimState8bit

from r1lit.distributed.block_moments import parts_of, take_up
from r1lit.distributed.shards import ShardsError, save_shards

NAME = "optimizer.state.weight.exp_avg"


@contextmanager
def process(rank: int, size: int) -> Iterator[None]:
    """Inside, this is one of so many processes, and the others never answer."""
    distributed.init_process_group("fake", rank=rank, world_size=size, store=FakeStore())
    try:
        yield
    finally:
        distributed.destroy_process_group()


def part(whole: Tensor, rank: int, size: int) -> Tensor:
    """As torchao's optimiser holds it: in blocks of 256 where it divides and is not small."""
    chunks = whole.chunk(size)
    local = chunks[rank].clone() if rank < len(chunks) else whole[:0]
    if local.numel() < 4096 or local.numel() % 256:
        return local
    return OptimState8bit.zeros(local.shape).copy_(local)


def moment(whole: Tensor, rank: int, size: int) -> DTensor:
    mesh = init_device_mesh("cpu", (size,))
    local = part(whole, rank, size)
    return DTensor.from_local(local, mesh, [Shard(0)], run_check=False, shape=whole.shape, stride=whole.stride())


def numbers(local: Tensor) -> Tensor:
    return local.dequantize() if isinstance(local, OptimState8bit) else local


def saved(folder: Path, whole: Tensor, size: int) -> Tensor:
    """Save a moment from so many processes; gives what they hold together."""
    contents, held = {}, []
    for rank in range(size):
        with process(rank, size):
            mine = moment(whole, rank, size)
            contents |= parts_of({NAME: mine})
            held.append(numbers(mine.to_local()))
    save_shards(folder, contents)
    return torch.cat(held)


def taken_up(folder: Path, shape: torch.Size, size: int) -> list[Tensor]:
    """The parts of so many processes."""
    found = []
    for rank in range(size):
        with process(rank, size):
            mine = moment(torch.zeros(shape), rank, size)
            take_up(folder, {NAME: mine})
            found.append(numbers(mine.to_local()).clone())
    return found


def drawn(*shape: int) -> Tensor:
    """As moments are: of many sizes. In most blocks the largest is negative, which 8 bits round."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator) ** 3 - 0.2


@pytest.mark.parametrize(
    ("shape", "before", "after"),
    [
        ((70, 256), 2, 2),
        ((70, 256), 2, 1),
        ((70, 256), 1, 3),
        ((70, 256), 4, 3),
        # Rows that end within blocks, and parts that end there too.
        ((128, 96), 1, 1),
        ((128, 96), 2, 2),
        ((64, 300), 1, 3),
        # Parts of 4,096 and of 2,048 numbers: 8 bits, and as they are.
        ((16, 256), 1, 2),
        ((5, 3), 2, 4),
        ((9,), 4, 1),
    ],
)
def test_moments_in_8_bits_are_the_same_numbers_in_other_parts(tmp_path, shape, before, after):
    held = saved(tmp_path, drawn(*shape), before)
    assert torch.equal(torch.cat(taken_up(tmp_path, held.shape, after)), held)


@pytest.mark.parametrize(("shape", "before", "after"), [((192, 100), 2, 3), ((16, 256), 2, 1), ((49, 256), 3, 1)])
def test_what_was_too_small_or_uneven_for_8_bits_is_rounded_as_in_any_update(tmp_path, shape, before, after):
    held = saved(tmp_path, drawn(*shape), before)
    found = taken_up(tmp_path, held.shape, after)
    expected = [numbers(part(held, rank, after)) for rank in range(after)]
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert not torch.equal(torch.cat(found), held)


def test_rows_that_are_not_there_are_missed(tmp_path):
    held = saved(tmp_path, drawn(70, 256), 2)
    with pytest.raises(ShardsError, match=r"holds 70 of 140 rows from row 0 on"):
        taken_up(tmp_path, torch.Size((140, 256)), 1)
    with process(0, 1), pytest.raises(ShardsError, match="of other the checkpoint holds 0 of 70 rows"):
        take_up(tmp_path, {"other": moment(held, 0, 1)})
