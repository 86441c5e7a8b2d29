"""Which share of a whole weight a worker of vLLM holds, where tensor parallelism spreads the model over several."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from r1lit.rollout.vllm_weights import Share, digest

PROVEN: dict[str, Any] = {
    "pipeline_parallel_size": 1,
    "data_parallel_size": 1,
    "prefill_context_parallel_size": 1,
    "decode_context_parallel_size": 1,
    "nnodes": 1,
    "enable_expert_parallel": False,
}
"""Settings of vLLM's ``ParallelConfig`` beside ``tensor_parallel_size``, under which pushes have been tested."""

EXECUTORS = frozenset({"uni", "mp"})
"""What may run the workers: the engine's own process, or processes of one host."""


def spread(parallel: Any, experts: bool) -> dict[str, Any]:
    """How a model is spread, with ``experts`` or none, from vLLM's ``ParallelConfig``, as plain values."""
    backend = parallel.distributed_executor_backend
    return {
        "workers": parallel.tensor_parallel_size,
        "executor": backend if isinstance(backend, str) else getattr(backend, "__name__", "uni"),
        "experts": experts,
        **{name: getattr(parallel, name) for name in PROVEN},
    }


def spread_problem(spread: dict[str, Any], processes: int) -> str | None:
    """What of a server's way to spread its model over so many processes is not proven, if anything."""
    odd = [f"{name}={spread[name]}" for name, proven in PROVEN.items() if spread[name] != proven]
    if spread["executor"] not in EXECUTORS:
        odd.append(f"distributed_executor_backend={spread['executor']}")
    if spread["experts"] and spread["workers"] > 1:
        odd.append(f"tensor_parallel_size={spread['workers']} for a mixture of experts")
    # An engine of several beside each other takes itself for the only one.
    if not odd and processes != spread["workers"]:
        odd.append(f"data_parallel_size={processes // spread['workers']}")
    return ", ".join(odd) or None


def shares(module: nn.Module, name: str, weight: Tensor) -> list[Share]:
    """The digests of what a module of vLLM's holds of a parameter, each with the share of the whole that it is.

    A share that is taken for the whole here, or a whole for a share, does not pass for right: shares differ between the
    workers, and a whole counts more than once. That a worker holds another's share would.
    """
    rank, size = getattr(module, "tp_rank", 0), getattr(module, "tp_size", 1)
    if size == 1 or not _is_sharded(module, name):
        return [(digest(weight), 0, 1)]
    replicas = getattr(module, "num_kv_head_replicas", 1)
    if replicas == 1:
        return [(digest(weight), rank, size)]
    # With more workers than heads of keys and values, each head is held by several.
    queries = module.num_heads * module.head_size
    own, common = weight[:queries], weight[queries:]
    return [(digest(own), rank, size), (digest(common), rank // replicas, size // replicas)]


def _is_sharded(module: nn.Module, name: str) -> bool:
    from vllm.model_executor.layers.linear import ColumnParallelLinear, RowParallelLinear
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    if isinstance(module, RowParallelLinear):
        # The outputs are summed over the workers, and the bias is added once.
        return name != "bias"
    return isinstance(module, (ColumnParallelLinear, VocabParallelEmbedding))
