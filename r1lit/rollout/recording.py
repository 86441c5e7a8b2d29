"""Steps that are recorded once and replayed: on CUDA by its graphs, without Python and without launching kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Step = Callable[[], Tensor]


class CudaRecording:
    """A step as a CUDA graph.

    The step takes nothing and reads what it needs from tensors that stay where they are; its result lies in the same
    place every time. The first call runs it as it is, which loads and compiles what it needs; the second records it.

    Torch's own ``mode="reduce-overhead"`` would keep every recording for good, and the memory of its tensors: it takes
    the cache's addresses, which are new in each rollout, for another graph. These end with the batch.
    """

    def __init__(self, step: Step):
        self._step: Step = step
        self._graph: torch.cuda.CUDAGraph | None = None
        self._calls = 0

    def __call__(self) -> Tensor:
        self._calls += 1
        if self._calls == 1:
            return self._step()
        if self._graph is None:
            graph = torch.cuda.CUDAGraph()
            # Another thread may be training meanwhile: what it queues is not recorded. It must not wait for the whole
            # device, which would break the recording.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._result = self._step()
            self._graph = graph
        self._graph.replay()
        return self._result


RECORDINGS: Mapping[str, Callable[[Step], Step]] = {"cuda": CudaRecording}
"""By kind of device; elsewhere a step runs as it is each time."""


def recorded(step: Step, device: torch.device) -> Step:
    return RECORDINGS.get(device.type, _as_it_is)(step)


def _as_it_is(step: Step) -> Step:
    return step
