"""The policy as it decodes with fixed shapes: its weights, in modules of its own."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from r1lit.models.attention import TORCH_VARLEN, attention_of
from r1lit.rollout.grouped import GROUPED
from r1lit.rollout.masks import takes_positions, windows_of

DECODES_WITH: Mapping[str, str] = {
    "sdpa": GROUPED,
    TORCH_VARLEN: GROUPED,
    "flash_attention_2": GROUPED,
    "eager": "eager",
}
"""By the attention that a model trains with: what it decodes with; a ready-made mask is no kernel's for sequences."""

CHANGING_ROPE = ("dynamic", "longrope")
"""Rotary positions whose frequencies change with the length, which the host would have to read at each step."""


def static_problem(model: PreTrainedModel) -> str | None:
    """Why a model cannot decode with fixed shapes; None where it can."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, Mapping)}
    found = {
        f"transformers does not say that {type(model).__name__} runs without looking at its data": (
            not model._can_compile_fullgraph
        ),
        "it is not told where tokens stand": not takes_positions(model),
        f"its layers are of the types {sorted(set(getattr(config, 'layer_types', None) or ()))}, of which only full "
        "and sliding attention are known": windows_of(config) is None,
        f"its attention {attention_of(model)} takes no ready-made mask": attention_of(model) not in DECODES_WITH,
        f"its rotary positions ({' and '.join(sorted(kinds & set(CHANGING_ROPE)))}) change with the length": bool(
            kinds & set(CHANGING_ROPE)
        ),
        "it embeds each token in every layer too": bool(getattr(config, "hidden_size_per_layer_input", None)),
        "its weights are quantized": bool(getattr(model, "is_quantized", False)),
    }
    return next((reason for reason, holds in found.items() if holds), None)


HOOKS = ("_forward_hooks", "_forward_pre_hooks")
"""Where a module keeps what others have it call."""


class Shell:
    """A second tree of modules around a model's own parameters and buffers.

    It is in eval mode, has the attention that suits a step of decoding, and is not called where the model is, so that
    nobody's hooks on it run. Under autocast its linear layers hold their weights rounded beforehand, as autocast would
    round them at each step: the arithmetic is the same, and a step reads half of the bytes.
    """

    def __init__(self, model: PreTrainedModel):
        self._tensors = _tensors(model)
        hooks = [getattr(module, name) for module in model.modules() for name in HOOKS]
        kept = {id(tensor): tensor for tensor in self._tensors} | {id(hook): OrderedDict() for hook in hooks}
        self.model = copy.deepcopy(model, kept).eval()
        self.model.set_attn_implementation(DECODES_WITH[attention_of(model)])

    def fits(self, model: PreTrainedModel) -> bool:
        """Whether these are still the model's tensors, which a move or a merge may have replaced by others. Adapters
        that were switched off or rescaled since are not seen."""
        mine, its = self._tensors, _tensors(model)
        return len(mine) == len(its) and all(a is b for a, b in zip(mine, its, strict=True))

    @contextmanager
    def rounded(self) -> Iterator[PreTrainedModel]:
        """The model as it decodes while its weights stay as they are now."""
        device = self._tensors[0].device.type
        if not torch.is_autocast_enabled(device):
            yield self.model
            return
        dtype, own = torch.get_autocast_dtype(device), []
        try:
            for layer in self.model.modules():
                if isinstance(layer, nn.Linear):
                    for name, weight in layer.named_parameters(recurse=False):
                        own.append((layer, name, weight))
                        setattr(layer, name, nn.Parameter(weight.detach().to(dtype), requires_grad=False))
            yield self.model
        finally:
            for layer, name, weight in own:
                setattr(layer, name, weight)


def _tensors(model: nn.Module) -> list[Tensor]:
    return list(chain(model.parameters(), model.buffers()))
