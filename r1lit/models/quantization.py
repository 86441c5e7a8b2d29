"""A frozen base in 4 bits a weight (QLoRA, arXiv 2305.14314), by bitsandbytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig


def quantization_problems(name: str | None, rank: int | None) -> Iterator[str]:
    """What speaks against a quantization, as far as can be told without loading anything."""
    if name is None:
        return
    if not rank:
        yield (
            f"model.quantization={name}, but 4-bit weights cannot be trained themselves; train adapters on them: set "
            "model.lora.rank=16, or model.quantization=null"
        )
    if find_spec("bitsandbytes") is None:
        yield (
            f"model.quantization={name} needs bitsandbytes, which is not installed; pip install 'r1lit[qlora]', or "
            "set model.quantization=null"
        )


def quantized(name: str | None, dtype: str, config: PreTrainedConfig) -> dict[str, Any]:
    """What ``from_pretrained`` is told beside: NF4 with quantized constants, computed in the dtype; or nothing."""
    if name is None:
        return {}
    from transformers import BitsAndBytesConfig

    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=name,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=(config.dtype or torch.float32) if dtype == "auto" else getattr(torch, dtype),
        )
    }


def keep_one_arithmetic(model: nn.Module) -> None:
    """Compute with the packed weights in one way, training or not.

    On some CPUs bitsandbytes repacks a model in evaluation mode for products in bfloat16: it would then sample from
    other numbers than it trains on.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def packings(model: nn.Module) -> dict[str, Any]:
    """How the packed parameters are packed, by name; to be told to what takes their place (`set_packings`)."""
    found = ((name, getattr(parameter, "quant_state", None)) for name, parameter in model.named_parameters())
    return {name: state for name, state in found if state is not None}


def set_packings(model: nn.Module, packings: Mapping[str, Any]) -> None:
    """Tell parameters how they are packed."""
    for name, state in packings.items():
        model.get_parameter(name).quant_state = state


def held_weight(layer: nn.Module, kind: str) -> Tensor:
    """A layer's parameter, which knows how it is packed; gathered from shards, it has lost that, and its layer not."""
    weight, state = getattr(layer, kind), getattr(layer, "quant_state", None)
    if kind == "weight" and state is not None:
        weight.quant_state = state
    return weight


def dense(weight: Tensor) -> Tensor:
    """A weight as a plain tensor, unpacked where it is packed."""
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, state)


def unpacked_size(parameter: Tensor) -> int:
    """How many weights a parameter stands for; bitsandbytes packs two of them, or more, into one number."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else torch.Size(state.shape).numel()
