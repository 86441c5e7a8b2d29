"""A model that samples, and the prompts' own pass: what every row of a prompt starts from."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from r1lit.distributed.plan import computing_device
from r1lit.rollout.cache import make_cache

LOOK = "warn_if_padding_and_no_attention_mask"


@dataclass(frozen=True)
class Prefilled:
    """P prompts as the model has read them, padded on the left, so that every row's next token goes to the same slot.

    Attributes:
        cache: their keys and values.
        logits: [P, V], of each prompt's next token.
        lengths: int64 [P], tokens.
        width: slots that are taken, padding included.
        longest: slots that a row may come to take.
        padded: whether any prompt is shorter than the longest.
    """

    cache: DynamicCache
    logits: Tensor
    lengths: Tensor
    width: int
    longest: int
    padded: bool


def prefill(
    model: nn.Module, prompts: Sequence[Sequence[int]], max_tokens: int, pad: int, whole: bool = False
) -> Prefilled:
    """Read the prompts, each once.

    Args:
        model: any causal LM of transformers, in eval mode.
        prompts: token ids.
        max_tokens: the most tokens that a prompt's rows may get.
        pad: token id for padding, never attended to.
        whole: keep all keys and values, those too that a sliding window has left behind.
    """
    device = computing_device(model)
    lengths = torch.tensor([len(ids) for ids in prompts])
    width = int(lengths.max())
    cache = make_cache(model, width + max_tokens, whole)
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    slots = torch.arange(width) - (width - lengths)[:, None]
    # Without padding no mask is needed, which spares repeating grouped-query heads and allows faster kernels.
    padded = int(lengths.min()) < width
    mask = (slots >= 0).to(device) if padded else None
    forward = Forward(model, cache)
    logits = forward(slots.clamp(min=0).to(device), input_ids=ids, attention_mask=mask)
    return Prefilled(cache, logits, lengths.to(device), width, width + max_tokens, padded)


class Forward:
    """A model's pass over the next tokens of rows whose earlier ones are in a cache."""

    def __init__(self, model: nn.Module, cache: Cache):
        self._model, self._cache = model, cache
        self._accepts = inspect.signature(model.forward).parameters

    def __call__(self, positions: Tensor, **inputs: Any) -> Tensor:
        """[n, V], the logits after the last of the tokens in ``inputs``, which stand at ``positions`` int64 [n, L]."""
        options = {"position_ids": positions, "logits_to_keep": 1}
        options = {name: value for name, value in options.items() if name in self._accepts}
        return self._model(past_key_values=self._cache, use_cache=True, **inputs, **options).logits[:, -1]


@contextmanager
def as_it_samples(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; outside, every submodule's own training flag again.

    Some models of transformers look for padding in each step's tokens to warn of it, for which the host waits for the
    device; inside they do not.
    """
    training = [module for module in model.modules() if module.training]
    looking = [module for module in model.modules() if hasattr(module, LOOK)]
    model.eval()
    try:
        for module in looking:
            setattr(module, LOOK, _nothing)
        yield
    finally:
        for module in looking:
            delattr(module, LOOK)
        for module in training:
            module.training = True


def _nothing(*_: Any) -> None:
    pass
