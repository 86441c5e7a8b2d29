"""A channel between the trainer and an engine in another process: weights by broadcast, tensor after tensor.

Every tensor follows a header of fixed size that announces its name, shape and dtype as JSON: nothing is unpickled, and
no process holds more than one tensor beside its model. Each of several workers gets every tensor whole, and keeps its
share of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from r1lit.rollout.vllm_weights import NamedTensors

DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}
"""What may be announced."""

GROUPS = {
    "gloo": lambda store, rank, size, limit: dist.ProcessGroupGloo(store, rank, size, limit),
    "nccl": lambda store, rank, size, limit: dist.ProcessGroupNCCL(store, rank, size, limit),
}
"""What carries the tensors: NCCL from GPU to GPU, gloo through the hosts' memory."""

MEETING_SECONDS = 60.0
"""All of the group must find each other within this."""

_HEADER_BYTES = 1024
_END, _BROKEN = {"end": True}, {"broken": True}


class Channel:
    """A group apart from any that the process is in: rank 0 sends, and all others receive the same.

    Args:
        rank: 0, the trainer, or 1 and more, the engine's workers.
        workers: of the engine.
        host: where the trainer listens.
        port: and at which port.
        backend: ``gloo`` or ``nccl``.
        timeout: seconds that a tensor may take.
        device: where the tensors are.
        store: the trainer's own meeting point; a worker looks it up at the address.

    Raises:
        RuntimeError: where one of them does not come.
    """

    def __init__(
        self,
        rank: int,
        workers: int,
        host: str,
        port: int,
        backend: str,
        timeout: float,
        device: torch.device,
        store: dist.TCPStore | None = None,
    ):
        meeting = timedelta(seconds=MEETING_SECONDS)
        self._store = store or dist.TCPStore(host, port, is_master=False, timeout=meeting)
        self._device = device if backend == "nccl" else torch.device("cpu")
        self._group = GROUPS[backend](dist.PrefixStore("r1lit", self._store), rank, 1 + workers, meeting)
        self._limit = timedelta(seconds=timeout)

    def send(self, weights: NamedTensors) -> None:
        """Send all weights; where they cannot be made, tell the others that no more will come."""
        try:
            for name, tensor in weights:
                dtype = str(tensor.dtype).removeprefix("torch.")
                self._announce({"name": name, "shape": list(tensor.shape), "dtype": dtype})
                self._broadcast(tensor.to(self._device))
        except Exception:
            self._announce(_BROKEN)
            raise
        self._announce(_END)

    def receive(self) -> Iterator[tuple[str, Tensor]]:
        """What is sent, until the end is announced.

        Raises:
            RuntimeError: where the sender breaks off.
        """
        while (header := self._heard()) != _END:
            if header == _BROKEN:
                raise RuntimeError("the trainer broke off while it sent its weights")
            tensor = torch.empty(header["shape"], dtype=DTYPES[header["dtype"]], device=self._device)
            self._broadcast(tensor)
            yield header["name"], tensor

    def _announce(self, header: dict[str, Any]) -> None:
        text = json.dumps(header).encode().ljust(_HEADER_BYTES)
        self._broadcast(torch.frombuffer(bytearray(text), dtype=torch.uint8).to(self._device))

    def _heard(self) -> dict[str, Any]:
        text = torch.empty(_HEADER_BYTES, dtype=torch.uint8, device=self._device)
        self._broadcast(text)
        return json.loads(bytes(text.tolist()))

    def _broadcast(self, tensor: Tensor) -> None:
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor, options.timeout = 0, 0, self._limit
        self._group.broadcast([tensor], options).wait()
