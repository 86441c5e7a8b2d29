"""The processes of a run as one object: shares of the work, and what is agreed on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from r1lit.distributed.launch import PATIENCE
from r1lit.models.packing import balance

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process and the run's others. With one process every method gives back what it was given.

    Each method but ``part`` and ``own`` is to be called by all of them, in the same order.

    Attributes:
        rank, size: this process's number, and how many there are.
        lockstep: True where every pass through a model is one of all processes, because it gathers shards.
        group: what they talk in; None for the run's own.
    """

    rank: int = 0
    size: int = 1
    lockstep: bool = False
    group: distributed.ProcessGroup | None = field(default=None, compare=False)

    @property
    def first(self) -> bool:
        """True in the one process that writes files and speaks."""
        return self.rank == 0

    def apart(self) -> Ranks:
        """The same processes, talking on the host in a group of their own: a thread that has one need not wait for its
        turn among what the others say."""
        if self.size == 1:
            return self
        return replace(self, group=distributed.new_group(backend="gloo", timeout=PATIENCE))

    def part(self, count: int) -> slice:
        """This process's part of ``count`` things: as many as the others have, give or take one, side by side.

        >>> [Ranks(rank, 2).part(5) for rank in range(2)]
        [slice(0, 2, None), slice(2, 5, None)]
        """
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def own(self, lengths: Sequence[int]) -> list[int]:
        """This process's part of the sequences of these lengths, so that all have about the same work."""
        return list(range(len(lengths))) if self.size == 1 else balance(lengths, self.size)[self.rank]

    def gather(self, value: T) -> list[T]:
        """Everyone's value, by rank; it may be anything that can be pickled."""
        if self.size == 1:
            return [value]
        values: list[T] = [value] * self.size
        distributed.all_gather_object(values, value, group=self.group)
        return values

    def from_first(self, value: T) -> T:
        """What the first process gives."""
        if self.size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0, group=self.group)
        return values[0]

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor, which becomes the sum of everyone's."""
        if self.size > 1:
            distributed.all_reduce(tensor, group=self.group)
        return tensor

    def largest(self, value: int) -> int:
        """The largest of everyone's whole numbers."""
        if self.size == 1:
            return value
        given = torch.tensor(value)
        distributed.all_reduce(given, distributed.ReduceOp.MAX, group=self.group)
        return int(given)

    def level(self, items: Iterable[T], spare: Callable[[], T]) -> Iterator[tuple[T, bool]]:
        """The items of this process, each with True; in lockstep then ``spare()``, with False, as often as another
        process has more items."""
        if not self.lockstep or self.size == 1:
            yield from ((item, True) for item in items)
            return
        own = list(items)
        most = self.largest(len(own))
        yield from ((item, True) for item in own)
        for _ in range(most - len(own)):
            yield spare(), False

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make each gradient the sum of everyone's. Those of a sharded model are summed as they are made."""
        if self.size == 1:
            return
        pending = []
        for parameter in parameters:
            if parameter.requires_grad and not isinstance(parameter, DTensor):
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                pending.append(distributed.all_reduce(parameter.grad, group=self.group, async_op=True))
        for work in pending:
            work.wait()

    def wait(self) -> None:
        """Go on once everyone is here."""
        self.gather(None)


ALONE = Ranks()
