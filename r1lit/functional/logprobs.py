"""Log-probabilities and entropies of tokens, from logits."""

from __future__ import annotations

import torch
from torch import Tensor


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


def check_temperature(temperature: float) -> None:
    """Raise a ValueError for a temperature that logits cannot be divided by."""
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}, but logits are divided by it; pass temperature > 0")


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    check_temperature(temperature)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    # Not gather - logsumexp: that loses digits where logits are large, and one pass serves the entropy as well.
    return (logits if temperature == 1.0 else logits / temperature).log_softmax(-1)


def _gather(logprobs: Tensor, ids: Tensor) -> Tensor:
    return logprobs.gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def _entropy(logprobs: Tensor) -> Tensor:
    # A forbidden token has log-probability -inf and adds 0, which 0 * -inf would turn into NaN.
    return -(logprobs.exp() * logprobs.clamp(min=torch.finfo(logprobs.dtype).min)).sum(-1)
