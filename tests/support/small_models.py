"""Models of every kind that is packed, small and drawn at random, and a stand-in for the kernel that CUDA alone has."""

from __future__ import annotations

from itertools import pairwise

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
WINDOW = {"sliding_window": 4}
KINDS = {
    "llama": {},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {},
    "mistral": WINDOW,
    "gemma2": WINDOW | {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 0.5},
    "gemma3_text": WINDOW | {"layer_types": ["sliding_attention", "full_attention"]},
    "cohere": {"logit_scale": 0.25},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64},
}
LEAKING = {
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "mamba": {},
    "bloom": {"n_head": 4, "n_layer": 2},
}


def make_model(kind: str, attention: str | None = None, layers: int | None = None):
    config = AutoConfig.for_model(kind, **SIZES | (KINDS | LEAKING)[kind])
    config.num_hidden_layers = layers or config.num_hidden_layers
    config.eos_token_id, config.bos_token_id = 1, None
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


def reference_varlen(query, key, value, *sequences, **options):
    """What torch's kernel computes, of what it takes: halves, all of one kind."""
    kinds = {query.dtype, key.dtype, value.dtype}
    if len(kinds) > 1 or not kinds <= {torch.bfloat16, torch.float16}:
        raise RuntimeError(f"the kernel takes bfloat16 or float16 alone, and was given {kinds}")
    return exact_varlen(query, key, value, *sequences, **options)


def exact_varlen(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa):
    """The same in any arithmetic, the plain way: each sequence by itself, with a mask for its window. With float32 it
    tells what stands around the kernel from what the kernel rounds."""
    assert cu_seq_q.dtype == torch.int32 and cu_seq_q is cu_seq_k and max_q == max_k == int(cu_seq_q.diff().max())
    assert (cu_seq_q[0], cu_seq_q[-1]) == (0, len(query)) and window_size[1] == 0
    outs = []
    for start, end in pairwise(cu_seq_q.tolist()):
        place = torch.arange(end - start)
        back = place[:, None] - place
        seen = (back >= 0) & (back <= window_size[0] if window_size[0] >= 0 else True)
        q, k, v = (states[start:end].transpose(0, 1)[None] for states in (query, key, value))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, seen, scale=scale, enable_gqa=enable_gqa)
        outs.append(out[0].transpose(0, 1))
    return torch.cat(outs)
