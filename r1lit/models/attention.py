"""Which attention a model computes with: chosen here, by device, arithmetic and architecture, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from inspect import signature
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10
    varlen_attn = None

AttentionName = Literal["auto", "sdpa", "eager", "flash_attention_2", "varlen"]

HALF = (torch.bfloat16, torch.float16)

TORCH_VARLEN = "sdpa_varlen"
"""What transformers knows torch's varlen kernel by; it asks of a model what it asks for any name with sdpa in it."""

VARLEN = ("flash_attention_2", "flash_attention_3", TORCH_VARLEN)
"""Attention that is told where sequences end, makes no mask, and computes nothing between them."""


def attention_at_load(attention: AttentionName, config: PreTrainedConfig) -> str | None:
    """The attention that transformers is asked for when it builds a model; None is sdpa where the architecture has it,
    else eager. Kernels that want a device come later, by `settle_attention`.

    Raises:
        ValueError: for sdpa where scores are soft-capped: transformers would leave the cap out without a word.
    """
    if softcap := _softcap(config):
        if attention == "sdpa":
            raise ValueError(
                f"model.attention=sdpa, but {config.model_type} caps its attention scores at {softcap}, which sdpa "
                "cannot; set model.attention=auto, which takes eager"
            )
        return "eager"
    return attention if attention in ("sdpa", "eager") else None


def settle_attention(model: PreTrainedModel, attention: AttentionName, device: torch.device) -> None:
    """Give the model the kernel that was asked for or, by ``auto``, the first that can run; without one it keeps what
    it was loaded with. To be called under the autocast that the model will run under.

    Raises:
        ValueError: for a kernel that was asked for and cannot run.
    """
    autocast = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if autocast else model.dtype
    for kernel in _KERNELS if attention == "auto" else [kernel for kernel in _KERNELS if kernel.setting == attention]:
        problem = _device_problem(device, dtype) or kernel.problem(model)
        if problem is None:
            model.set_attn_implementation(kernel.name)
        elif attention == "auto":
            continue
        else:
            raise ValueError(f"model.attention={attention}, but {problem}; set model.attention=auto")
        return


def in_own_arithmetic(model: PreTrainedModel) -> torch.autocast:
    """A context in which a model computes in its weights' arithmetic; in bfloat16 where a kernel takes halves alone."""
    weight = model.get_input_embeddings().weight
    halved = attention_of(model) in VARLEN and weight.dtype not in HALF
    return torch.autocast(weight.device.type, torch.bfloat16, enabled=halved)


def needs_cuda(attention: AttentionName) -> bool:
    """Whether the attention that is asked for runs on CUDA alone."""
    return any(kernel.setting == attention for kernel in _KERNELS)


def attention_of(model: PreTrainedModel) -> str:
    """The name of what a model computes its attention with."""
    return model.config.get_text_config()._attn_implementation


def _device_problem(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cuda":
        return f"its kernel runs on CUDA alone, and this run is on {device.type.upper()}"
    if dtype not in HALF:
        return f"its kernel takes bfloat16 or float16, and this run computes in {str(dtype).removeprefix('torch.')}"
    if torch.cuda.is_available() and torch.cuda.get_device_capability(device) < (8, 0):
        return f"its kernel runs on Ampere and newer, and this is a {torch.cuda.get_device_name(device)}"
    return None


def _flash_problem(model: PreTrainedModel) -> str | None:
    if find_spec("flash_attn") is None:
        return "the flash-attn package is not installed"
    return None if model._supports_flash_attn else f"{type(model).__name__} does not support it"


def _varlen_problem(model: PreTrainedModel) -> str | None:
    config = model.config.get_text_config()
    if varlen_attn is None or "enable_gqa" not in signature(varlen_attn).parameters:
        return f"torch {torch.__version__} has no such kernel yet"
    if not model._supports_sdpa or not model._can_set_attn_implementation():
        return f"{type(model).__name__} has no attention that could be exchanged for it"
    if _softcap(config):
        return f"{type(model).__name__} caps its attention scores, which it cannot"
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if width > 256 or width % 8 or getattr(config, "v_head_dim", width) != width:
        return f"it takes heads of one width, a multiple of 8 up to 256, which {type(model).__name__}'s are not"
    # The mask of chunked attention is asked for just as a sliding window's is, and is another.
    if getattr(config, "attention_chunk_size", None):
        return f"{type(model).__name__} attends in chunks, which it cannot"
    return None


@dataclass(frozen=True)
class _Kernel:
    """A kernel's setting, transformers' name of it, and what keeps a model from using it."""

    setting: str
    name: str
    problem: Callable[[PreTrainedModel], str | None]


_KERNELS = (
    _Kernel("flash_attention_2", "flash_attention_2", _flash_problem),
    _Kernel("varlen", TORCH_VARLEN, _varlen_problem),
)


def _softcap(config: PreTrainedConfig) -> float | None:
    return getattr(config.get_text_config(), "attn_logit_softcapping", None)


def _varlen_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **options,
) -> tuple[Tensor, None]:
    """transformers' attention by torch's varlen kernel where there is no mask, by sdpa where there is one (decoding).

    Shapes: query [n, H, L, D], key and value [n, K, L, D]; returns [n, L, H, D]. ``cu_seq_lens_q`` int32 [S + 1] says
    where the sequences of the n rows, end to end, begin and end; without it each row is one.
    """
    rows, _, length, _ = query.shape
    if attention_mask is not None or key.shape[2] != length:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    causal = options.get("is_causal") is not False and getattr(module, "is_causal", True)
    if asked := [name for name in _UNKNOWN if options.get(name) not in (None, 0)] + ["no causality"] * (not causal):
        raise ValueError(f"{type(module).__name__} asks for {asked}, which varlen has not; set model.attention=sdpa")
    if cu_seq_lens_q is None:
        max_length_q = length
        cu_seq_lens_q = torch.arange(0, rows * length + 1, length, dtype=torch.int32, device=query.device)
    device = query.device.type
    # Rotary embeddings leave queries and keys in float32 under autocast.
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else value.dtype
    flat = [states.transpose(1, 2).flatten(0, 1).to(dtype) for states in (query, key, value)]
    # A window of W tokens is the token itself and the W - 1 before it.
    window = (sliding_window - 1 if sliding_window else -1, 0)
    out = varlen_attn(
        *flat,
        cu_seq_lens_q,
        cu_seq_lens_q,
        max_length_q,
        max_length_q,
        scale=scaling,
        window_size=window,
        enable_gqa=key.shape[1] != query.shape[1],
    )
    return out.unflatten(0, (rows, length)), None


def _varlen_mask(
    q_length: int, kv_length: int, q_offset: int = 0, attention_mask: Tensor | None = None, **options
) -> Tensor | None:
    """No mask for whole sequences, whose kernel knows what a token sees; sdpa's where there is padding or a cache."""
    custom = options.get("use_vmap", False)
    if attention_mask is None and q_length == kv_length and q_offset == 0 and not custom:
        return None
    return sdpa_mask(
        q_length=q_length, kv_length=kv_length, q_offset=q_offset, attention_mask=attention_mask, **options
    )


_UNKNOWN = ("softcap", "s_aux", "position_bias", "dropout")
"""What a model may ask of an attention and the kernel has not."""

AttentionInterface.register(TORCH_VARLEN, _varlen_forward)
AttentionMaskInterface.register(TORCH_VARLEN, _varlen_mask)
