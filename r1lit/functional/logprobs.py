"""Log-probabilities and entropies of tokens, from logits or straight from hidden states."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

CHUNK_LOGITS = 2**25
"""Logits that ``head_logprobs`` holds at once by default: 128 MiB in float32."""


def token_logprobs(logits: Tensor, ids: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probability of each token under ``softmax(logits / temperature)``, in nats, in float32 or better.

    Shapes: logits [..., V], ids int64 [...] -> [...].

    Raises:
        ValueError: where the temperature is not above 0.

    >>> token_logprobs(torch.zeros(1, 4), torch.tensor([2])).exp()
    tensor([0.2500])
    """
    return _gather(_log_softmax(logits, temperature), ids)


def entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Shannon entropy of ``softmax(logits / temperature)``, in nats, in float32 or better; -inf logits are allowed.

    Shapes: logits [..., V] -> [...].

    Raises:
        ValueError: where the temperature is not above 0.

    >>> entropy(torch.zeros(1, 4)).exp()
    tensor([4.])
    """
    return _entropy(_log_softmax(logits, temperature))


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
    """Log-probabilities and entropies of tokens from the last hidden states, without the logits of all rows at once.

    At most ``chunk`` x V logits live at a time, in the backward too, which computes them again; by default as many rows
    as make 2**25 logits. Where one chunk holds everything nothing is computed twice.

    Shapes: hidden [M, H], head_weight [V, H], ids int64 [M], bias [V] -> logprobs [M], entropy [M] (no gradient).
    ``softcap`` bounds the logits to ``softcap * tanh(logits / softcap)`` (Gemma 2, 2408.00118), before the temperature.

    Raises:
        ValueError: where the temperature is not above 0, or chunk below 1.
    """

    def read(every: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
        return _gather(every, ids), _entropy(every.detach())

    return _over_rows(read, hidden, head_weight, ids, bias, temperature, softcap, chunk)


def head_predictions(
    hidden: Tensor,
    head_weight: Tensor,
    ids: Tensor,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `head_logprobs` at temperature 1, and bool [M], True where the token is the likeliest of all."""

    def read(every: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
        return _gather(every, ids), _entropy(every.detach()), every.detach().argmax(-1) == ids

    return _over_rows(read, hidden, head_weight, ids, bias, 1.0, softcap, chunk)


def _over_rows(
    read: Callable[[Tensor, Tensor], tuple[Tensor, ...]],
    hidden: Tensor,
    head_weight: Tensor,
    ids: Tensor,
    bias: Tensor | None,
    temperature: float,
    softcap: float | None,
    chunk: int | None,
) -> tuple[Tensor, ...]:
    """What ``read`` takes from log-probabilities [m, V] and ids [m], chunk by chunk; each of it is [M]."""
    chunk = max(1, CHUNK_LOGITS // head_weight.shape[0]) if chunk is None else chunk
    if chunk < 1:
        raise ValueError(f"chunk={chunk}, but a chunk holds at least one row; pass chunk >= 1")

    def rows(hidden: Tensor, head_weight: Tensor, bias: Tensor | None, ids: Tensor) -> tuple[Tensor, ...]:
        logits = F.linear(hidden, head_weight, bias)
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        return read(_log_softmax(logits, temperature), ids)

    if len(hidden) <= chunk:
        return rows(hidden, head_weight, bias, ids)
    pieces = zip(hidden.split(chunk), ids.split(chunk), strict=True)
    inputs = [tensor for tensor in (hidden, head_weight, bias) if tensor is not None]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        options = {"use_reentrant": False, "preserve_rng_state": False}
        done = [checkpoint(rows, piece, head_weight, bias, some, **options) for piece, some in pieces]
    else:
        done = [rows(piece, head_weight, bias, some) for piece, some in pieces]
    return tuple(torch.cat(parts) for parts in zip(*done, strict=True))


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}, but logits are divided by it; pass temperature > 0")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    # Not gather - logsumexp: that loses digits where logits are large, and one pass serves the entropy as well.
    return (logits if temperature == 1.0 else logits / temperature).log_softmax(-1)


def _gather(logprobs: Tensor, ids: Tensor) -> Tensor:
    return logprobs.gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def _entropy(logprobs: Tensor) -> Tensor:
    # A forbidden token has log-probability -inf and adds 0, which 0 * -inf would turn into NaN.
    return -(logprobs.exp() * logprobs.clamp(min=torch.finfo(logprobs.dtype).min)).sum(-1)
