from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM, MistralConfig
from transformers.cache_utils import DynamicSlidingWindowLayer

from r1lit.rollout.cache import ROOM, GrowingLayer, keeps_everything, make_cache


class Holder(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config


def test_holds_what_a_dynamic_cache_holds_through_growth_and_selection():
    config = LlamaConfig(num_hidden_layers=2)
    growing, plain = make_cache(Holder(config), longest=10 * ROOM), DynamicCache(config=config)
    generator = torch.Generator().manual_seed(0)
    rows = 3
    for step, length in enumerate([5, 1, ROOM, 1, 2 * ROOM, 1]):
        for layer in range(2):
            keys, values = torch.randn(2, rows, 4, length, 8, generator=generator)
            held = growing.update(keys, values, layer)
            assert all(torch.equal(a, b) for a, b in zip(held, plain.update(keys, values, layer), strict=True))
        assert growing.get_seq_length() == plain.get_seq_length()
        if step in (0, 3):
            chosen = torch.tensor([2, 0, 0, 1])[: rows + 1 - step]
            growing.batch_select_indices(chosen)
            plain.batch_select_indices(chosen)
            rows = len(chosen)


def test_never_allocates_more_than_the_longest_row():
    cache = make_cache(Holder(LlamaConfig(num_hidden_layers=1)), longest=9)
    for length in (4, 5):
        cache.update(torch.zeros(1, 2, length, 3), torch.zeros(1, 2, length, 3), 0)
    assert cache.layers[0]._buffers[0].shape == (1, 2, 9, 3)


def test_a_sliding_window_that_no_row_outgrows_is_kept_whole():
    config = MistralConfig(num_hidden_layers=1, sliding_window=16)
    assert keeps_everything(make_cache(Holder(config), longest=15))
    cache = make_cache(Holder(config), longest=16)
    assert type(cache.layers[0]) is DynamicSlidingWindowLayer
    assert not keeps_everything(cache)


def test_recurrent_models_are_refused():
    model = MambaForCausalLM(MambaConfig(vocab_size=10, hidden_size=8, num_hidden_layers=1, state_size=4))
    with pytest.raises(ValueError, match=r"model_type='mamba' keeps a state .* attention layers alone"):
        make_cache(model, longest=10)


def test_cache_layers_are_those_a_stock_model_uses():
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    )
    cache = make_cache(model, longest=4)
    model(input_ids=torch.tensor([[1, 2, 3]]), past_key_values=cache, use_cache=True)
    assert isinstance(cache.layers[0], GrowingLayer)
    assert cache.get_seq_length() == 3
