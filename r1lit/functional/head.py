"""From last hidden states to the log-probabilities of tokens, without the logits of all of them at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from r1lit.functional.logprobs import check_temperature

CHUNK_LOGITS = 2**25
"""Logits held at once by default: 128 MiB in float32, two to three times that with what is made of them."""


def head_logprobs(
    hidden: Tensor,
    head_weight: Tensor,
    ids: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies of tokens from the last hidden states.

    At most ``chunk`` x V logits live at a time, in the backward too, which computes them again; by default as many rows
    as make 2**25 logits. Where one chunk holds everything they are kept, and nothing is computed twice.

    Shapes: hidden [M, H], head_weight [V, H], ids int64 [M], bias [V] -> logprobs [M], entropy [M] (no gradient), in
    nats, in float32 or better. ``softcap`` bounds the logits to ``softcap * tanh(logits / softcap)`` (Gemma 2,
    2408.00118), before the temperature. Under autocast the products are taken in its precision, as a linear layer takes
    them.

    Raises:
        ValueError: where the temperature is not above 0, or chunk below 1.
    """
    logprobs, entropy, _ = _apply(hidden, head_weight, ids, bias, temperature, softcap, chunk)
    return logprobs, entropy


def head_predictions(
    hidden: Tensor,
    head_weight: Tensor,
    ids: Tensor,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `head_logprobs` at temperature 1, and bool [M], True where no token is likelier."""
    return _apply(hidden, head_weight, ids, bias, 1.0, softcap, chunk)


def _apply(
    hidden: Tensor,
    weight: Tensor,
    ids: Tensor,
    bias: Tensor | None,
    temperature: float,
    softcap: float | None,
    chunk: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    check_temperature(temperature)
    chunk = max(1, CHUNK_LOGITS // weight.shape[0]) if chunk is None else chunk
    if chunk < 1:
        raise ValueError(f"chunk={chunk}, but a chunk holds at least one row; pass chunk >= 1")
    return _Head.apply(hidden, weight, bias, ids, temperature, softcap, chunk)


class _Head(torch.autograd.Function):
    """With z the logits less their maximum: logprob = z[id] - log sum exp z, and its gradient by a logit is
    ``(1[id] - softmax) / temperature``."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        ids: Tensor,
        temperature: float,
        softcap: float | None,
        chunk: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        ctx.how = (dtype, temperature, softcap, chunk)
        wide = torch.promote_types(dtype, torch.float32)
        logprobs, entropy, top, total = (torch.empty(len(hidden), dtype=wide, device=hidden.device) for _ in range(4))
        right = torch.empty(len(hidden), dtype=torch.bool, device=hidden.device)
        cast_weight, cast_bias = _cast(weight, bias, dtype)
        kept = None
        for rows in _slices(len(hidden), chunk):
            z, top[rows] = _shifted(hidden[rows].to(dtype), cast_weight, cast_bias, temperature, softcap)
            picked = z.gather(-1, ids[rows, None])[:, 0]
            right[rows] = picked == 0
            # A forbidden token's -inf adds nothing to the entropy, but 0 * -inf would make it NaN.
            z.clamp_(min=torch.finfo(z.dtype).min)
            exp = z.exp()
            mass = exp.sum(-1)
            total[rows] = mass.log()
            logprobs[rows] = picked - total[rows]
            entropy[rows] = total[rows] - exp.mul_(z).sum(-1) / mass
            kept = z if len(hidden) <= chunk else None
        ctx.save_for_backward(hidden, weight, bias, ids, top, total, kept)
        ctx.mark_non_differentiable(entropy, right)
        return logprobs, entropy, right

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, ids, top, total, kept = ctx.saved_tensors
        dtype, temperature, softcap, chunk = ctx.how
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        # Sums over the chunks are taken in float32, as one product over all rows would take them.
        d_hidden = torch.empty_like(hidden) if for_hidden else None
        d_weight = torch.zeros_like(weight, dtype=top.dtype) if for_weight else None
        d_bias = torch.zeros_like(bias, dtype=top.dtype) if for_bias else None
        cast_weight, cast_bias = _cast(weight, bias, dtype)
        for rows in _slices(len(hidden), chunk):
            part = hidden[rows].to(dtype)
            z = _shifted(part, cast_weight, cast_bias, temperature, softcap)[0] if kept is None else kept
            scale = (upstream[rows] / temperature)[:, None]
            d_logits = (z - total[rows, None]).exp_().mul_(-scale).scatter_add_(-1, ids[rows, None], scale)
            if softcap is not None:
                d_logits.mul_(1 - ((z + top[rows, None]) * (temperature / softcap)).square_())
            if d_bias is not None:
                d_bias += d_logits.sum(0)
            d_logits = d_logits.to(dtype)
            if d_hidden is not None:
                d_hidden[rows] = d_logits @ cast_weight
            if d_weight is not None:
                _add_product(d_weight, d_logits, part)
        grads = (d_hidden, *(None if d is None else d.to(x.dtype) for d, x in ((d_weight, weight), (d_bias, bias))))
        return *grads, None, None, None, None


def _slices(count: int, chunk: int) -> list[slice]:
    return [slice(start, start + chunk) for start in range(0, count, chunk)]


def _cast(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    return weight.to(dtype), None if bias is None else bias.to(dtype)


def _shifted(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Logits less their row's maximum, [m, V], and the maxima, [m].

    Shifted before anything is summed, as log_softmax does it: a plain logsumexp loses digits where logits are large.
    """
    logits = F.linear(hidden, weight, bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if softcap is not None:
        logits.div_(softcap).tanh_().mul_(softcap)
    if temperature != 1.0:
        logits.div_(temperature)
    top = logits.amax(-1)
    return logits.sub_(top[:, None]), top


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left.T @ right, in total's precision."""
    if left.dtype == total.dtype:
        total.addmm_(left.T, right)
    else:
        total += left.T @ right
