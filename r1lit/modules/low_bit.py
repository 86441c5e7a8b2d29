"""AdamW whose moments are held in 8 bits (Dettmers et al., arXiv 2110.02861), by torchao."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor


def torchao_missing() -> bool:
    """True where torchao is not installed."""
    return find_spec("torchao") is None


@cache
def adamw_8bit() -> type[torch.optim.Optimizer]:
    """torchao's AdamW8bit, as a run that can be resumed bit for bit needs it.

    Moments of fewer than 4,096 numbers stay as they are. bfloat16 weights are rounded at random, up or down by their
    distance, so that many updates too small for bfloat16 move them as far as they would move a float32 weight.

    What it saves is plain tensors: torch cannot load others onto the device that Lightning asks for. Moments of sharded
    weights are left as they are (`r1lit.distributed.block_moments`).
    """
    from torchao.optim import AdamW8bit
    from torchao.optim.subclass_8bit import OptimState8bit

    def plain(value: Any) -> Any:
        if not isinstance(value, OptimState8bit):
            return value
        names, attributes = value.__tensor_flatten__()
        return {"tensors": {name: getattr(value, name) for name in names}, "attributes": attributes}

    def packed(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return OptimState8bit.__tensor_unflatten__(value["tensors"], value["attributes"])

    class ReproducibleAdamW8bit(AdamW8bit):
        moments_by_part = True
        """Of a sharded weight each process quantises its part, so parts are saved by themselves."""

        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, bf16_stochastic_round=True, **kwargs)

        @staticmethod
        def _subclass_zeros(p: Tensor, signed: bool, block_size: int) -> Tensor:
            # What torchao pretends the codes to be: the weight's dtype, which it forgets where that is sharded.
            return OptimState8bit.zeros(p.shape, signed, block_size, p.device, dtype=torch.float32)

        def step(self, closure: Any = None) -> Any:
            device = self.param_groups[0]["params"][0].device
            with _seeded(_updates(self), device), _float32_by_default(), ExitStack() as stack:
                if not _compiles(device):
                    stack.enter_context(torch.compiler.set_stance("force_eager"))
                return super().step(closure)

        def state_dict(self) -> dict[str, Any]:
            return _mapped(super().state_dict(), plain)

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            super().load_state_dict(_mapped(state_dict, packed))

    return ReproducibleAdamW8bit


def _mapped(saved: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """A copy of an optimiser's state, each value of each parameter changed."""
    states = {
        key: {name: change(value) for name, value in values.items()} for key, values in saved["state"].items()
    }
    return saved | {"state": states}


def _updates(optimizer: torch.optim.Optimizer) -> int:
    return next((int(state["step"]) for state in optimizer.state.values() if "step" in state), 0)


def _compiles(device: torch.device) -> bool:
    """torchao compiles the update of each shape of weight; on a CPU that takes longer than it saves."""
    from torch.utils._triton import has_triton

    return device.type == "cuda" and has_triton()


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random rounding that goes by the number of the update, and leaves other draws alone."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def _float32_by_default() -> Iterator[None]:
    """Lightning's bf16-true makes bfloat16 the default, in which torchao's count of updates would stop at 256."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
