"""AdamW whose moments are held in 8 bits (Dettmers et al., arXiv 2110.02861), by torchao."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch


def torchao_missing() -> bool:
    """True where torchao is not installed."""
    return find_spec("torchao") is None


def allow_low_bit_states() -> None:
    """Let 8-bit moments be loaded under ``weights_only``: on import, torchao says that they are data."""
    if not torchao_missing():
        import torchao.optim  # noqa: F401


@cache
def adamw_8bit() -> type[torch.optim.Optimizer]:
    """torchao's AdamW8bit, as a run that can be resumed bit for bit needs it.

    Moments of fewer than 4,096 numbers stay as they are. bfloat16 weights are rounded at random, up or down by their
    distance, so that many updates too small for bfloat16 move them as far as they would move a float32 weight.
    """
    from torchao.optim import AdamW8bit

    class ReproducibleAdamW8bit(AdamW8bit):
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, bf16_stochastic_round=True, **kwargs)

        def step(self, closure: Any = None) -> Any:
            device = self.param_groups[0]["params"][0].device
            with _seeded(_updates(self), device), _float32_by_default(), ExitStack() as stack:
                if not _compiles(device):
                    stack.enter_context(torch.compiler.set_stance("force_eager"))
                return super().step(closure)

    return ReproducibleAdamW8bit


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
