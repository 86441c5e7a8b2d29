"""Decoding with fixed shapes: a step that can be compiled, and recorded as a CUDA graph.

Keys and values stand in buffers of a fixed number of rows and slots, and a mask says which slots are seen. The price is
that attention reads slots that are still empty. So buffers start small and double when they are full, up to what the
longest row can need, and rows are dropped by halves: attention and memory cost at most about twice of what a cache that
fits would, and a batch of n rows that come to fill s slots goes through about log2(n / 8) + log2(s / 256) shapes, each
of which is recorded anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin

from r1lit.rollout.masks import Windows, by_layer, windows_of
from r1lit.rollout.prefill import Prefilled
from r1lit.rollout.recording import Step, recorded
from r1lit.rollout.settings import Decoding

FIRST_SLOTS = 256
"""Slots that a cache has at least, where a row may come to need as many."""

SLOT_BLOCK = 64
"""Slots come in multiples of this; attention kernels want masks whose rows are aligned."""

FEWEST_ROWS = 8
"""Rows are not dropped below this number: a step of fewer takes no less time."""

VARIANTS = 32
"""Times that a step may be compiled: for a row or several, with and without autocast, for each model."""


def slots_for(used: int, longest: int) -> int:
    """How many slots to hold for rows of ``used`` tokens that may come to have ``longest``.

    >>> [slots_for(used, 2400) for used in (10, 257, 1025, 2049)]
    [256, 512, 2048, 2432]
    """
    slots = FIRST_SLOTS
    while slots < used:
        slots *= 2
    return min(slots, -(-longest // SLOT_BLOCK) * SLOT_BLOCK)


def rows_for(rows: int, active: int) -> int:
    """How many of so many rows to keep for those that are active: a power of two, unless all are kept.

    >>> [rows_for(96, active) for active in (96, 65, 64, 20, 3)]
    [96, 96, 64, 32, 8]
    """
    wanted = FEWEST_ROWS
    while wanted < active:
        wanted *= 2
    return min(rows, wanted)


class StaticLayer(CacheLayerMixin):
    """A layer's keys and values in buffers [rows, heads, slots, head_dim], of which a step fills one slot.

    Args:
        keys, values: the buffers.
        slot: int64 [1], the slot that is filled next; shared by all layers.
    """

    is_compileable = True

    def __init__(self, keys: Tensor, values: Tensor, slot: Tensor):
        super().__init__()
        self.keys, self.values, self.slot, self.is_initialized = keys, values, slot, True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        pass

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.keys.index_copy_(2, self.slot, key_states.to(self.keys.dtype))
        self.values.index_copy_(2, self.slot, value_states)
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.keys.shape[-2], 0

    def get_seq_length(self) -> int:
        return self.keys.shape[-2]

    def get_max_length(self) -> int:
        return self.keys.shape[-2]


@dataclass(frozen=True)
class Inputs:
    """All that a step of n rows reads beside the model, in tensors that are changed in place from step to step.

    Attributes:
        embedded: [n, 1, D], the tokens that are fed.
        positions: int64 [n, 1], where they stand in their rows.
        first: int64 [n, 1], the slot of each row's first token; what is before is padding.
        slot: int64 [1], the slot that the tokens are put into.
        cache: keys and values.
        slots: of the cache.
        windows: what layers see, by type.
    """

    embedded: Tensor
    positions: Tensor
    first: Tensor
    slot: Tensor
    cache: Cache
    slots: int
    windows: Windows


Forward = Callable[[PreTrainedModel, Inputs], Tensor]


def _forward(model: PreTrainedModel, inputs: Inputs) -> Tensor:
    """[n, V], the logits after the tokens in ``inputs``."""
    slots = torch.arange(inputs.slots, device=inputs.slot.device)
    seen = (slots >= inputs.first) & (slots <= inputs.slot)
    masks = {
        kind: _mask(seen if window is None else seen & (slots > inputs.slot - window), model, inputs.embedded.dtype)
        for kind, window in inputs.windows.items()
    }
    return model(
        inputs_embeds=inputs.embedded,
        attention_mask=by_layer(masks),
        position_ids=inputs.positions,
        past_key_values=inputs.cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]


def _mask(seen: Tensor, model: PreTrainedModel, dtype: torch.dtype) -> Tensor:
    """[n, 1, 1, slots], as the model's attention takes it: eager adds it to its scores."""
    seen = seen[:, None, None]
    if model.config.get_text_config()._attn_implementation != "eager":
        return seen
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


@cache
def _compiled_forward() -> Forward:
    # Lengths and rows are left open: one compilation serves all shapes, and another those of as many rows as slots.
    # Values are rounded where eager rounds them.
    options = {"emulate_precision_casts": True}
    return torch.compile(_forward, dynamic=True, fullgraph=True, recompile_limit=VARIANTS, options=options)


def _settle_sizes(inputs: Inputs) -> None:
    """Tell the compiler which sizes are the model's: one that equals the slots' number is taken for it otherwise."""
    torch._dynamo.mark_static(inputs.embedded, [1, 2])
    for layer in inputs.cache.layers:
        torch._dynamo.mark_static(layer.keys, [1, 3])
        torch._dynamo.mark_static(layer.values, [1, 3])


FORWARDS: Mapping[Decoding, Callable[[], Forward]] = {
    "static": lambda: _forward,
    "compiled": _compiled_forward,
}
"""By ``rollout.decode``: what runs in a step."""


class StaticDecoder:
    """Rows whose steps all have the same shapes, until some are dropped or the slots are full.

    Args:
        model: the policy, which embeds the tokens; hooks that count them are its.
        shell: the same weights, as they decode.
        decoding: what runs in a step.
        prefilled: the prompts, all of their keys and values kept.
        owners: int64 [n], for each row, which of the prompts it continues.
    """

    def __init__(
        self, model: PreTrainedModel, shell: PreTrainedModel, decoding: Decoding, prefilled: Prefilled, owners: Tensor
    ):
        self.device, self._shell = owners.device, shell
        self._decoding, self._forward = decoding, FORWARDS[decoding]()
        self._embed: nn.Module = model.get_input_embeddings()
        self._used, self._longest = prefilled.width, prefilled.longest
        self.logits = prefilled.logits[owners]
        lengths = prefilled.lengths[owners, None]
        windows = windows_of(model.config.get_text_config())
        self._inputs = Inputs(
            embedded=self._embed.weight.new_zeros(len(owners), 1, self._embed.weight.shape[1]),
            positions=lengths - 1,
            first=self._used - lengths,
            slot=torch.tensor([self._used - 1], device=self.device),
            cache=prefilled.cache,
            slots=slots_for(self._used + 1, self._longest),
            windows={kind: window if window and window < self._longest else None for kind, window in windows.items()},
        )
        self._move(owners)

    def kept(self, rows: int, active: int) -> int:
        return rows_for(rows, active)

    def keep(self, rows: Tensor) -> None:
        """Go on with the rows at ``rows`` int64 [m]."""
        inputs = self._inputs
        self.logits = self.logits[rows]
        parts = {name: getattr(inputs, name)[rows] for name in ("embedded", "positions", "first")}
        self._inputs = replace(inputs, **parts)
        self._move(rows)

    def step(self, ids: Tensor) -> None:
        """Feed one token a row, int64 [n]; ``logits`` [n, V] are then those of the next."""
        self._used += 1
        if self._used > self._inputs.slots:
            self._inputs = replace(self._inputs, slots=slots_for(self._used, self._longest))
            self._move(None)
        self._inputs.slot.add_(1)
        self._inputs.positions.add_(1)
        self._inputs.embedded.copy_(self._embed(ids[:, None]))
        self.logits = self._step()

    def _move(self, rows: Tensor | None) -> None:
        """Put the keys and values of ``rows``, or of all, into buffers of the inputs' slots, a layer at a time."""
        inputs, self._step = self._inputs, None
        layers = inputs.cache.layers
        for number, layer in enumerate(layers):
            # Under autocast rotary embeddings leave keys in float32, which attention rounds whenever it reads them.
            dtype = layer.values.dtype
            keys, values = (_moved(states, rows, inputs.slots, dtype) for states in (layer.keys, layer.values))
            layers[number] = StaticLayer(keys, values, inputs.slot)
        if self._decoding == "compiled":
            _settle_sizes(inputs)
        # It must not hold the decoder, which holds it: caches would wait for Python's garbage collector.
        self._step: Step = recorded(partial(_run, self._forward, self._shell, inputs), self.device)


def _run(forward: Forward, shell: PreTrainedModel, inputs: Inputs) -> Tensor:
    kind = inputs.slot.device.type
    if not torch.is_autocast_enabled(kind):
        return forward(shell, inputs)
    # A rounded weight that autocast keeps to itself would be gone when the recording is replayed.
    with torch.autocast(kind, torch.get_autocast_dtype(kind), cache_enabled=False):
        return forward(shell, inputs)


def _moved(states: Tensor, rows: Tensor | None, slots: int, dtype: torch.dtype) -> Tensor:
    """The rows' states in a buffer of so many slots; zeros where none are yet, as no mask keeps out NaN."""
    states = states[:, :, :slots]
    chosen = states if rows is None else states.index_select(0, rows)
    buffer = chosen.new_zeros(*chosen.shape[:2], slots, chosen.shape[-1], dtype=dtype)
    buffer[:, :, : chosen.shape[2]] = chosen
    return buffer
