"""Attention masks of single new tokens, made beforehand.

A model of transformers makes its own from a plain mask of tokens [n, L], each step anew, and in doing so may look into
it, for which the host waits for the device. It takes masks that are ready-made as they are: one for all its layers, or
where its layers are of several types one for each type, by name, as transformers' own ``generate`` gives them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from r1lit.models.attention import TORCH_VARLEN, attention_of
from r1lit.rollout.cache import keeps_everything
from r1lit.rollout.prefill import Prefilled

READY = ("sdpa", TORCH_VARLEN)
"""Attention that takes a mask of booleans: True = seen."""

EVERY_LAYER = ""
"""Stands for the type of the layers where a model knows no types."""

Windows = Mapping[str, int | None]
"""By type of layer, how many tokens a token sees, itself included; None: all."""

_WINDOW_OF = {
    "full_attention": lambda config: None,
    "sliding_attention": lambda config: config.sliding_window,
}


def windows_of(config: PreTrainedConfig) -> Windows | None:
    """What a model's layers see, by type; None where a layer's mask is of another kind."""
    types = getattr(config, "layer_types", None)
    if getattr(config, "attention_chunk_size", None):
        return None
    if types is None:
        return {EVERY_LAYER: getattr(config, "sliding_window", None)}
    if not set(types) <= set(_WINDOW_OF):
        return None
    return {kind: _WINDOW_OF[kind](config) for kind in dict.fromkeys(types)}


def by_layer(masks: dict[str, Tensor]) -> Tensor | dict[str, Tensor]:
    """Masks as a model takes them."""
    return masks.get(EVERY_LAYER, masks)


def takes_positions(model: nn.Module) -> bool:
    """Whether a model is told where tokens stand; one with ALiBi reads it off the plain mask."""
    told = "position_ids" in inspect.signature(model.forward).parameters
    return told and not getattr(model.config.get_text_config(), "alibi", False)


class Masks:
    """What each step's new tokens see of rows that are padded on the left.

    Args:
        model: what takes them.
        prefilled: its prompts.
    """

    def __init__(self, model: nn.Module, prefilled: Prefilled):
        slots = torch.arange(prefilled.longest, device=prefilled.lengths.device)
        self._seen = slots >= prefilled.width - prefilled.lengths[:, None]
        self._windows = _ready(model, prefilled)

    def keep(self, rows: Tensor) -> None:
        self._seen = self._seen[rows]

    def at(self, used: int) -> Tensor | dict[str, Tensor]:
        """That of the token in slot ``used - 1``, bool [n, 1, 1, keys]; or [n, used], for the model to make it."""
        if self._windows is None:
            return self._seen[:, :used]
        return by_layer({kind: self._last(used, window) for kind, window in self._windows.items()})

    def _last(self, used: int, window: int | None) -> Tensor:
        start = 0 if window is None else max(0, used - window)
        return self._seen[:, None, None, start:used]


def _ready(model: nn.Module, prefilled: Prefilled) -> Windows | None:
    """By type of layer, how many of the last keys its cache gives; None where the model must make its masks itself."""
    config = model.config.get_text_config()
    if attention_of(model) not in READY or not takes_positions(model):
        return None
    if keeps_everything(prefilled.cache):
        return {EVERY_LAYER: None}
    return windows_of(config) if getattr(model, "_can_compile_fullgraph", False) else None
