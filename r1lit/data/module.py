"""Prompts for a Lightning run that can stop anywhere and go on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lightning import LightningDataModule

from r1lit.data.stream import PromptStream
from r1lit.types import Prompt


class StepPrompts:
    """The prompts of one step; unpacks as ``step, prompts``.

    Neither a tuple nor a dataclass: Lightning looks for tensors inside those, and refuses frozen dataclasses.
    """

    def __init__(self, step: int, prompts: list[Prompt]):
        self.step, self.prompts = step, prompts

    def __iter__(self) -> Iterator[Any]:
        return iter((self.step, self.prompts))


class PromptDataModule(LightningDataModule):
    """Training prompts step by step, and the held-out ones.

    The training module sets ``start_step = step + 1`` at the end of each step; it is saved with every checkpoint, and
    a resumed run goes on from there. All steps are one epoch.

    Args:
        stream: the training prompts.
        validation: the held-out prompts.
        steps: of the whole run.
    """

    def __init__(self, stream: PromptStream, validation: list[Prompt], steps: int):
        super().__init__()
        self.stream, self.validation, self.steps = stream, validation, steps
        self.start_step = 0

    def train_dataloader(self) -> StepLoader:
        return StepLoader(self)

    def state_dict(self) -> dict[str, int]:
        return {"start_step": self.start_step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.start_step = state_dict["start_step"]


class StepLoader:
    """Gives `StepPrompts` from the data module's ``start_step`` on.

    It has a length, so that Lightning fetches no batch ahead. The length counts the steps before ``start_step``
    too: a resumed Lightning counts them as done. No `DataLoader`, whose steps Lightning would share out among ranks.
    """

    def __init__(self, module: PromptDataModule):
        self._module = module

    def __len__(self) -> int:
        return self._module.steps

    def __iter__(self) -> Iterator[StepPrompts]:
        for step in range(self._module.start_step, self._module.steps):
            yield StepPrompts(step, self._module.stream.batch(step))

    # Lightning takes a loader that has a state for one that can be resumed in mid-epoch; else it warns.
    def state_dict(self) -> dict[str, int]:
        return self._module.state_dict()

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._module.load_state_dict(state_dict)
