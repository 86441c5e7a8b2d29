"""How Lightning is told of processes that were started already, and of models that are replicated or sharded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor

from r1lit.distributed.block_moments import parts_of, take_up
from r1lit.distributed.launch import Launch
from r1lit.distributed.shards import REST, load_shards, read_rest, save_shards, stored_names

FLAT = StateDictOptions(flatten_optimizer_state_dict=True)

SETTING = "param_groups."
"""What the names of an optimiser's settings begin with; the others are of its state, which is tensors."""


class Started(ClusterEnvironment):
    """Processes that have come together before Lightning."""

    def __init__(self, launch: Launch):
        super().__init__()
        self._launch = launch

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        raise NotImplementedError("the processes have come together already")

    main_port = main_address

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._launch.size

    def set_world_size(self, size: int) -> None:
        """It stands."""

    def global_rank(self) -> int:
        return self._launch.rank

    def set_global_rank(self, rank: int) -> None:
        """It stands."""

    def local_rank(self) -> int:
        return self._launch.local_rank

    def node_rank(self) -> int:
        return self._launch.node


class Replicated(DDPStrategy):
    """The same model in every process.

    Gradients are summed once an update, when all its passes are made (`Ranks.sum_gradients`), so nothing is wrapped.
    """

    def configure_ddp(self) -> None:
        """Nothing to wrap."""


class Sharded(ModelParallelStrategy):
    """Models whose modules were sharded before, with checkpoints in shards."""

    def __init__(self, size: int):
        super().__init__(data_parallel_size=size, tensor_parallel_size=1)

    def model_to_device(self) -> None:
        """The models are there, and shards that are kept in the host's memory stay; the module is told where they
        compute."""
        self.lightning_module._device = self.root_device

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Write each process's shards, and what is no tensor once."""
        checkpoint = dict(checkpoint)
        folder, model = Path(filepath), checkpoint.pop("state_dict")
        states = checkpoint.pop("optimizer_states")
        tensors = {f"model.{name}": value for name, value in model.items()}
        moments, further = self._parted(states[0])
        tensors |= further | parts_of(moments)
        if self.is_global_zero:
            folder.mkdir(parents=True, exist_ok=True)
        self.barrier()
        save_shards(folder, tensors)
        if self.is_global_zero:
            settings = {name: value for name, value in states[0].items() if name.startswith(SETTING)}
            # One may be a number in one run, and a tensor in the next.
            numbers = {name: value.item() for name, value in settings.items() if isinstance(value, Tensor)}
            torch.save(checkpoint | {"optimizer_settings": settings | numbers}, folder / REST)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Fill model and optimiser; gives the rest.

        What the module says is ``optional_weights`` may be missing, and then stays as it is.
        """
        folder, stored = Path(checkpoint_path), stored_names(Path(checkpoint_path))
        optional = getattr(self.lightning_module, "optional_weights", ())
        model = {f"model.{name}": value for name, value in get_model_state_dict(self.model).items()}
        model = {
            name: value
            for name, value in model.items()
            if name in stored or not name.removeprefix("model.").startswith(tuple(optional))
        }
        rest = read_rest(folder)
        (optimizer,) = self.optimizers
        state = self.optimizer_state(optimizer)
        moments, tensors = self._parted(state)
        load_shards(folder, model | tensors)
        take_up(folder, moments)
        get = {name.removeprefix("model."): value for name, value in model.items()}
        self.model.load_state_dict(get, strict=False)
        settings = {
            name: torch.full_like(state[name], value) if isinstance(state[name], Tensor) else value
            for name, value in rest.pop("optimizer_settings").items()
            if name in state
        }
        set_optimizer_state_dict(self.model, optimizer, state | settings, options=FLAT)
        return rest

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Its state by the parameters' names."""
        return get_optimizer_state_dict(self.model, getattr(optimizer, "_optimizer", optimizer), options=FLAT)

    def _parted(self, state: dict[str, Any]) -> tuple[dict[str, DTensor], dict[str, Tensor]]:
        """The moments of an optimiser that holds each process's part in a way of its own, and its further state."""
        (optimizer,) = self.optimizers
        by_part = getattr(getattr(optimizer, "_optimizer", optimizer), "moments_by_part", False)
        tensors = {f"optimizer.{name}": value for name, value in state.items() if not name.startswith(SETTING)}
        moments = {name: value for name, value in tensors.items() if by_part and isinstance(value, DTensor)}
        return moments, {name: value for name, value in tensors.items() if name not in moments}


def strategy_of(kind: str, launch: Launch) -> Any:
    """What ``trainer.strategy`` is to Lightning."""
    if kind == "fsdp":
        return Sharded(launch.size)
    return Replicated() if launch.size > 1 else "auto"
