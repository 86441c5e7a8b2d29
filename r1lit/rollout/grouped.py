"""Attention of one new token a row over grouped-query heads, without a copy of the keys for each head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

GROUPED = "sdpa_grouped"
"""What transformers knows it by; it asks of a model what it asks for any name with sdpa in it."""


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' sdpa, with the query heads that share a key head put where other query tokens would stand.

    They see the same keys, so that the mask serves all of them. transformers' own repeats keys and values for each
    query head wherever there is a mask, which a step of decoding would do with the whole cache.

    Shapes: query [n, H, L, D], key and value [n, K, S, D], attention_mask bool [n, 1, 1, S]; returns [n, L, H, D].
    """
    rows, heads, length, width = query.shape
    if length != 1 or heads == key.shape[1] or options.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    groups = query.reshape(rows, key.shape[1], -1, width)
    out = torch.nn.functional.scaled_dot_product_attention(groups, key, value, attn_mask=attention_mask, scale=scaling)
    return out.reshape(rows, 1, heads, -1), None


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, sdpa_mask)
