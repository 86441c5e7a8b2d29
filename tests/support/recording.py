"""What a CUDA graph does, by torch's operations on a CPU: recorded once, then done again on the same tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = frozenset(
    {
        "aten::_local_scalar_dense",  # item, bool(tensor), int(tensor)
        "aten::lift_fresh",  # a tensor made of the host's values, which are copied from memory that is not pinned
        "aten::nonzero",
        "aten::equal",
        "aten::masked_select",
        "aten::_unique2",
        "aten::unique_consecutive",
        "aten::unique_dim",
        "aten::repeat_interleave",
        "aten::bincount",
    }
)
"""Operations for which a host and its device wait for each other, or whose output's size is a matter of values."""

INDEXES = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
"""Operations that look for the places of True where they are given booleans."""

READS = frozenset(getattr(Tensor, name) for name in ("tolist", "numpy", "cpu", "__array__"))
"""What takes values to the host without an operation, where the tensor is on a CPU."""


class Reads(TorchFunctionMode):
    """Counts what takes values to the host."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in READS:
            self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


class Tape(TorchDispatchMode):
    """Notes each operation with the tensors it was given and those it made."""

    def __init__(self):
        super().__init__()
        self.ran: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.ran.append((func, args, kwargs, out))
        return out

    @property
    def names(self) -> list[str]:
        return [_name(func) for func, *_ in self.ran]

    @property
    def waits(self) -> list[str]:
        """The operations that a device could not do by itself."""
        return [_name(func) for func, args, *_ in self.ran if _name(func) in WAITS or _by_booleans(func, args)]

    def replay(self) -> None:
        for func, args, kwargs, out in self.ran:
            for was, now in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(was, Tensor) and was.data_ptr() != now.data_ptr():
                    was.copy_(now)


def _name(func) -> str:
    return func.name().partition(".")[0]


def _by_booleans(func, args) -> bool:
    indices = args[1] if _name(func) in INDEXES else ()
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


class CpuRecording:
    """Stands for `r1lit.rollout.recording.CudaRecording`; ``made`` are all there were."""

    made: list[CpuRecording]

    def __init__(self, step: Callable[[], Tensor]):
        self._step, self._calls, self.replays = step, 0, 0
        self.tape = Tape()
        self.made.append(self)

    def __call__(self) -> Tensor:
        self._calls += 1
        if self._calls == 1:
            return self._step()
        if self._calls == 2:
            with self.tape:
                self._result = self._step()
            assert not self.tape.waits
            # Python is not asked again.
            self._step = None
        else:
            self.tape.replay()
            self.replays += 1
        return self._result


def recorder() -> type[CpuRecording]:
    """A kind of recording with a list of its own."""
    return type("Recorder", (CpuRecording,), {"made": []})
