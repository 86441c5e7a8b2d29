"""What r1lit adds to a vLLM worker: it takes weights, and says which it holds.

vLLM finds it by its name: ``--worker-extension-cls r1lit.rollout.vllm_worker.WeightReceiver``. Nothing that comes over
the network is unpickled or run: the trainer's messages are JSON, and the weights plain tensors of announced shapes.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from r1lit.rollout.vllm_shape import shape_of
from r1lit.rollout.vllm_shares import shares, spread
from r1lit.rollout.vllm_transfer import Channel
from r1lit.rollout.vllm_weights import NamedTensors, Share

RECEIVER = "r1lit.rollout.vllm_worker.WeightReceiver"

LOGPROBS = "processed_logprobs"
"""vLLM's name of log-probs under the distribution that is drawn from: after temperature and top-p."""

Seen = dict[nn.Module, dict[str, list[Share]]]
"""What each module held of its parameters when it was looked at."""


def _told(method: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A worker's failure as its answer.

    vLLM gives up at the first worker that raises, and takes the answers of those after it for the next call's.
    """

    @wraps(method)
    def telling(worker: Any, *arguments: str) -> dict[str, Any]:
        try:
            return method(worker, *arguments)
        except Exception as error:
            traceback.print_exc()
            return {"worker": worker.rank, "failed": f"{type(error).__name__}: {error}"}

    return telling


class WeightReceiver:
    """Methods that the trainer calls by name through ``collective_rpc``; a worker of vLLM inherits them."""

    def r1lit_describe(self) -> dict[str, Any]:
        """What is served, as plain values."""
        return {
            "worker": self.rank,
            "shape": shape_of(self.model_config.hf_config),
            "dtype": str(self.model_config.dtype).removeprefix("torch."),
            "device": self.device.type,
            "logprobs_mode": self.model_config.logprobs_mode,
            "max_model_len": self.model_config.max_model_len,
            "spread": spread(self.parallel_config, self.model_config.is_moe),
        }

    def r1lit_load(self, weights: NamedTensors, version: str) -> dict[str, Any]:
        """Take all weights, and say what is held then; see `r1lit.rollout.vllm_weights.Held`."""
        model = self.model_runner.get_model()
        with _watching(model) as packed:
            self.reload_weights(weights_iterator=iter(weights))
            _repack(model, packed)
        return {"worker": self.rank, "version": version, **_held(model, packed, self.model_config.dtype)}

    @_told
    def r1lit_connect(self, settings: str) -> dict[str, Any]:
        """Meet the trainer at the address in ``settings``, a JSON object: what `Channel` takes."""
        self._r1lit_channel = Channel(rank=1 + self.rank, device=self.device, **json.loads(settings))
        return {"worker": self.rank}

    @_told
    def r1lit_receive(self, version: str) -> dict[str, Any]:
        """Take the weights that the trainer now sends."""
        weights = self._r1lit_channel.receive()
        try:
            return self.r1lit_load(weights, version)
        finally:
            # Whatever went wrong, the trainer is sending the rest and must not wait for ever.
            for _ in weights:
                pass


@contextmanager
def _watching(model: nn.Module) -> Iterator[Seen]:
    """The digests of every module's weights as they are when the engine turns them into what it computes with.

    On the CPU a linear layer keeps nothing but a packed copy, so this is the last moment at which they can be seen.
    """
    packed: Seen = {}
    methods = {id(method): method for module in model.modules() if (method := _method(module)) is not None}

    def watch(process: Any) -> Any:
        def watched(layer: nn.Module) -> None:
            packed[layer] = {name: shares(layer, name, weight) for name, weight in _own(layer)}
            process(layer)

        return watched

    for method in methods.values():
        method.process_weights_after_loading = watch(method.process_weights_after_loading)
    try:
        yield packed
    finally:
        for method in methods.values():
            del method.process_weights_after_loading


def _repack(model: nn.Module, packed: Seen) -> None:
    """Renew the packed copies of weights that another module loaded: vLLM forgets a tied head."""
    for module in model.modules():
        if module not in packed and _packs(module) and any(True for _ in _own(module)):
            _method(module).process_weights_after_loading(module)


def _held(model: nn.Module, packed: Seen, dtype: torch.dtype) -> dict[str, Any]:
    digests: dict[str, list[Share] | None] = {}
    stale, seen = [], set()
    for prefix, module in model.named_modules():
        for name, weight in module.named_parameters(recurse=False):
            path = f"{prefix}.{name}"
            before = packed.get(module, {}).get(name)
            cast = weight.to(dtype) if weight.is_floating_point() else weight
            now = shares(module, name, cast) if weight.numel() else before
            if _packs(module) and before != now:
                stale.append(path)
            # Emptied weights are each a parameter of its own; what is shared is counted once.
            if id(weight) not in seen:
                seen.add(id(weight))
                digests[path] = now
    fused = {name: list(parts) for name, parts in getattr(model, "packed_modules_mapping", {}).items()}
    return {"digests": digests, "stale": stale, "fused": fused}


def _packs(module: nn.Module) -> bool:
    """Whether a module computes with a copy of its weight that was made for the CPU."""
    return hasattr(module, "cpu_linear")


def _method(module: nn.Module) -> Any:
    method = getattr(module, "quant_method", None)
    return method if hasattr(method, "process_weights_after_loading") else None


def _own(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    return ((name, weight) for name, weight in module.named_parameters(recurse=False) if weight.numel())
