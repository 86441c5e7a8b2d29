"""A key-value cache that is written in place, so that a decoding step does not copy what it already holds."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

ROOM = 64
GROWTH = 1.5


class GrowingLayer(DynamicLayer):
    """A full-attention layer's keys and values in buffers with room to spare.

    ``keys`` and ``values`` are views [rows, heads, length, head_dim] of the buffers' used part; the buffers grow by
    half when full, so that T steps copy O(T) and not O(T^2), and never past ``longest``.
    """

    def __init__(self, longest: int):
        super().__init__()
        self._longest = longest

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        room = min(key_states.shape[-2] + ROOM, self._longest)
        self._buffers = [_with_room(states[:, :, :0], room) for states in (key_states, value_states)]
        self._show(0)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        if end > self._buffers[0].shape[-2]:
            room = min(max(end + ROOM, int(end * GROWTH)), self._longest)
            self._buffers = [_with_room(used, room) for used in (self.keys, self.values)]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = states
        self._show(end)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows at ``indices``; a row may be taken several times."""
        length = self.keys.shape[-2]
        self._buffers = [buffer.index_select(0, indices) for buffer in self._buffers]
        self._show(length)

    def _show(self, length: int) -> None:
        self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)


def _with_room(used: Tensor, room: int) -> Tensor:
    rows, heads, length, width = used.shape
    buffer = used.new_empty(rows, heads, room, width)
    buffer[:, :, :length] = used
    return buffer


def make_cache(model: nn.Module, longest: int, whole: bool = False) -> DynamicCache:
    """A cache for rows of up to ``longest`` tokens, padding included.

    Layers with a sliding window that no row outgrows are kept whole; with ``whole`` those too that are outgrown.

    Raises:
        ValueError: for models that carry a recurrent state, which cannot be cloned or padded like keys and values.
    """
    cache = DynamicCache(config=model.config)
    if not cache.layers or any(cache.is_linear):
        raise ValueError(
            f"model_type={model.config.model_type!r} keeps a state that is not keys and values, but the in-process "
            "sampler clones each prompt's keys and values for its group; use a model with attention layers alone"
        )
    cache.layers = [GrowingLayer(longest) if _keeps_all(layer, longest, whole) else layer for layer in cache.layers]
    return cache


def _keeps_all(layer: DynamicLayer, longest: int, whole: bool) -> bool:
    if type(layer) is DynamicSlidingWindowLayer:
        return whole or longest < layer.sliding_window
    return type(layer) is DynamicLayer


def keeps_everything(cache: DynamicCache) -> bool:
    """True where every layer sees every earlier token, so that one mask serves all layers."""
    return all(isinstance(layer, GrowingLayer) for layer in cache.layers)
