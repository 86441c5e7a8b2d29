"""What a decoder layer keeps for its backward pass, and whether it is compiled, for every model that trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

Checkpointing = Literal["none", "full", "selective"]

COSTLY = frozenset(
    {
        "aten::mm",
        "aten::addmm",
        "aten::_scaled_dot_product_cudnn_attention",
        "aten::_scaled_dot_product_efficient_attention",
        "aten::_scaled_dot_product_flash_attention",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "flash_attn::_flash_attn_forward",
        "flash_attn::_flash_attn_varlen_forward",
        "torch_attn::_varlen_attn",
    }
)
"""Operations that selective checkpointing never does twice: products with weights, and attention without a matrix.

Batched products are not among them: eager attention makes its [L, L] scores by those, which are what must not be kept.
"""

VARIANTS = 32
"""Times that a kind of layer may be compiled: a row or several, with and without mask, gradient and autocast."""


def _policy(ctx: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    name = operation.name().partition(".")[0]
    return CheckpointPolicy.MUST_SAVE if name in COSTLY else CheckpointPolicy.PREFER_RECOMPUTE


_CONTEXTS: Mapping[str, Mapping[str, Any]] = {
    "full": {},
    "selective": {"context_fn": partial(create_selective_checkpoint_contexts, _policy)},
}


def prepare_layers(model: PreTrainedModel, checkpointing: Checkpointing, compiled: bool) -> None:
    """Let each decoder layer recompute its activations in the backward pass, and compile it, while it trains.

    In evaluation mode, in which the policy samples token by token with a cache, a layer is what it was. What is
    compiled is the checkpointed layer, so that the compiler sees what is to be recomputed; all layers of a kind share
    one compilation, with lengths left open. Layers keep their names, parameters and class names; a copy of the model is
    prepared as the model is.

    Args:
        model: whose layers they are; changed in place.
        checkpointing: ``none``; ``full``, which keeps a layer's input alone; ``selective``, which keeps what `COSTLY`
            operations gave and computes only the cheap ones twice.
        compiled: compile the layers when they first run.

    Raises:
        ValueError: for a model whose layers cannot be told.
    """
    if checkpointing == "none" and not compiled:
        return
    layers = decoder_layers(model)
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no layers that transformers marks for checkpointing; set "
            "model.activation_checkpointing=none and model.compile=false"
        )
    for layer in layers:
        layer.__class__ = _prepared(type(layer), checkpointing, compiled)


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The model's blocks of attention and feed-forward, first to last."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def compiler_problem(
    device: torch.device, asked: str = "model.compile=true", off: str = "model.compile=false"
) -> str | None:
    """Why torch.compile cannot make code for a device of this machine, though a setting asks for it; None where it
    can. ``off`` is the setting that does without."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return None if has_triton() else f"{asked}, but there is no triton; install it, or set {off}"
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return (
            f"{asked}, but there is no C++ compiler on this machine, and torch compiles for a CPU by one; install g++ "
            f"(or name one in CXX), or set {off}"
        )
    return None


class _Prepared:
    """Stands before a decoder layer's own class; the classes that `_prepared` makes set the three attributes."""

    training: bool
    own_forward: Callable[..., Any]
    checkpointing: Checkpointing
    compiled: bool

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self.training:
            return self.own_forward(*args, **kwargs)
        return (_compiled_pass() if self.compiled else _training_pass)(self, args, kwargs)


@cache
def _prepared(kind: type[nn.Module], checkpointing: Checkpointing, compiled: bool) -> type[nn.Module]:
    # Under its own name: others find decoder layers by the names of their classes.
    own = {"own_forward": kind.forward, "checkpointing": checkpointing, "compiled": compiled}
    return type(kind.__name__, (_Prepared, kind), {**own, "__module__": kind.__module__})


def _training_pass(layer: _Prepared, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    contexts = _CONTEXTS.get(layer.checkpointing)
    if contexts is None or not torch.is_grad_enabled():
        return layer.own_forward(*args, **kwargs)
    if kwargs.get("past_key_values") is not None:
        raise ValueError("a checkpointed layer would write its keys and values twice; train it with use_cache=False")
    return checkpoint(layer.own_forward, *args, use_reentrant=False, **contexts, **kwargs)


@cache
def _compiled_pass() -> Callable[..., Any]:
    # A whole layer or an error: half of one, or one that is quietly run as it stands, would only look compiled.
    return torch.compile(_training_pass, dynamic=True, fullgraph=True, recompile_limit=VARIANTS)
