"""Batches for a Lightning run that can stop anywhere and go on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from lightning import LightningDataModule


class Stream(Protocol):
    """Gives any step's batch, the same each time it is asked."""

    def batch(self, step: int) -> Sequence[Any]: ...


class StepBatch:
    """The items of one step (prompts, demonstrations, pairs); unpacks as ``step, items``.

    Neither a tuple nor a dataclass: Lightning looks for tensors inside those, and refuses frozen dataclasses.
    """

    def __init__(self, step: int, items: Sequence[Any]):
        self.step, self.items = step, items

    def __iter__(self) -> Iterator[Any]:
        return iter((self.step, self.items))


class StepDataModule(LightningDataModule):
    """A run's batches, step by step.

    The checkpointing sets ``start_step = step + 1`` at the end of each step; it is saved with every checkpoint, and
    a resumed run goes on from there. All steps are one epoch.

    Args:
        stream: gives each step's batch.
        steps: of the whole run.
    """

    def __init__(self, stream: Stream, steps: int):
        super().__init__()
        self.stream, self.steps = stream, steps
        self.start_step = 0

    def train_dataloader(self) -> StepLoader:
        return StepLoader(self)

    def state_dict(self) -> dict[str, int]:
        return {"start_step": self.start_step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.start_step = state_dict["start_step"]


class StepLoader:
    """Gives `StepBatch` from the data module's ``start_step`` on.

    It has a length, so that Lightning fetches no batch ahead. The length counts the steps before ``start_step``
    too: a resumed Lightning counts them as done. No `DataLoader`, whose steps Lightning would share out among ranks.
    """

    def __init__(self, module: StepDataModule):
        self._module = module

    def __len__(self) -> int:
        return self._module.steps

    def __iter__(self) -> Iterator[StepBatch]:
        for step in range(self._module.start_step, self._module.steps):
            yield StepBatch(step, self._module.stream.batch(step))

    # Lightning takes a loader that has a state for one that can be resumed in mid-epoch; else it warns.
    def state_dict(self) -> dict[str, int]:
        return self._module.state_dict()

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._module.load_state_dict(state_dict)
