"""A channel between the trainer and an engine in another process: weights by broadcast, tensor after tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from r1lit.rollout.vllm_weights import NamedTensors

DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}
"""What may be announced."""

BACKENDS = {
    "gloo": lambda store, rank, timeout: dist.ProcessGroupGloo(store, rank, 2, timeout),
    "nccl": lambda store, rank, timeout: dist.ProcessGroupNCCL(store, rank, 2, timeout),
}
"""What carries the tensors: NCCL from GPU to GPU, gloo through the hosts' memory."""


class Channel:
    """A group of two, apart from any that the process is in: rank 0 sends, rank 1 receives.

    Args:
        rank: 0, the trainer, or 1, the engine.
        host: where the trainer listens.
        port: and at which port.
        backend: ``gloo`` or ``nccl``.
        timeout: seconds that a tensor may take.
        device: where the tensors are.
        store: the trainer's own meeting point; the engine looks it up at the address.
    """

    def __init__(
        self,
        rank: int,
        host: str,
        port: int,
        backend: str,
        timeout: float,
        device: torch.device,
        store: dist.TCPStore | None = None,
    ):
        limit = timedelta(seconds=timeout)
        store = store or dist.TCPStore(host, port, 2, is_master=False, timeout=limit)
        self._device = device if backend == "nccl" else torch.device("cpu")
        self._group = BACKENDS[backend](dist.PrefixStore("r1lit", store), rank, limit)
        self._store = store

    def send(self, weights: NamedTensors) -> None:
        """Send what was announced, in that order."""
        for _, tensor in weights:
            self._broadcast(tensor.to(self._device))

    def receive(self, manifest: Sequence[dict[str, Any]]) -> Iterator[tuple[str, Tensor]]:
        """What is sent, as announced: objects with a name, a shape and a dtype."""
        for item in manifest:
            tensor = torch.empty(item["shape"], dtype=DTYPES[item["dtype"]], device=self._device)
            self._broadcast(tensor)
            yield item["name"], tensor

    def _broadcast(self, tensor: Tensor) -> None:
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor = 0, 0
        self._group.broadcast([tensor], options).wait()
