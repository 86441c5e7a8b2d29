"""Sequences in shared rows come out as they do alone: targets and gradients, on several architectures."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from itertools import product

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from r1lit.models.loading import ModelSettings, load_policy
from r1lit.models.logprobs import target_predictions
from r1lit.models.packing import balance, collate, micro_batches, plan, require_apart

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
    "gemma2": WINDOW | {"final_logit_softcapping": 2.0},
    "gemma3_text": WINDOW | {"layer_types": ["sliding_attention", "full_attention"]},
    "cohere": {"logit_scale": 0.25},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64},
}
LEAKING = {
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "mamba": {},
    "bloom": {"n_head": 4, "n_layer": 2},
}


@dataclass(frozen=True)
class Sequence:
    ids: tuple[int, ...]
    trained: tuple[bool, ...]


def make_model(kind: str, attention: str | None = None):
    config = AutoConfig.for_model(kind, **SIZES | (KINDS | LEAKING)[kind])
    config.eos_token_id, config.bos_token_id = 1, None
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


def sequences(lengths, vocabulary: int = 50) -> list[Sequence]:
    rng = random.Random(0)
    return [
        Sequence(tuple(rng.randrange(2, vocabulary) for _ in range(n)), tuple(rng.random() < 0.6 for _ in range(n)))
        for n in lengths
    ]


def by_hand(model, items) -> dict[tuple[int, ...], list[float]]:
    """Each sequence's targets by the model's own logits, alone in its batch."""
    found = {}
    for item in items:
        lines = model(input_ids=torch.tensor([item.ids])).logits[0, :-1].log_softmax(-1)
        flags = torch.tensor(item.trained[1:])
        found[item.ids] = lines.gather(1, torch.tensor(item.ids[1:])[:, None])[:, 0][flags]
    return found


def in_passes(model, items, tokens: int, packing: bool):
    """The sum of all targets' log-probabilities, weighted by their ids so that none can stand for another."""
    total = 0.0
    for part in micro_batches(model, items, tokens, packing):
        logprobs, _, _ = target_predictions(model, part.input_ids, part.target_mask, part.position_ids)
        total = total + (logprobs * part.input_ids[:, 1:][part.target_mask]).sum()
    return total


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_sequences_come_out_as_alone(kind, attention):
    model, items = make_model(kind, attention), sequences([9, 3, 2, 14, 5, 7, 2, 11])
    alone = by_hand(model, items)
    expected = sum(
        (alone[item.ids] * torch.tensor(item.ids[1:])[torch.tensor(item.trained[1:])]).sum() for item in items
    )
    parameters = [p for p in model.parameters() if p.requires_grad]
    want = torch.autograd.grad(expected, parameters, allow_unused=True)
    largest = max(gradient.abs().max().item() for gradient in want if gradient is not None)
    for tokens, packing in ((28, True), (1000, True), (28, False), (1, True)):
        total = in_passes(model, items, tokens, packing)
        torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-4)
        for got, gradient in zip(torch.autograd.grad(total, parameters, allow_unused=True), want, strict=True):
            assert (got is None) == (gradient is None)
            if got is not None:
                torch.testing.assert_close(got, gradient, rtol=0, atol=1e-5 * largest)


def test_the_windows_of_sliding_attention_are_shorter_than_the_sequences():
    """Else the test above would tell nothing of them."""
    narrow, wide = make_model("mistral"), make_model("mistral")
    wide.config.sliding_window = 64
    ids = torch.tensor([sequences([14])[0].ids])
    assert (narrow(ids).logits - wide(ids).logits).abs().max() > 0.01


@pytest.mark.parametrize("kind", LEAKING)
def test_models_that_mix_sequences_are_refused(kind):
    model = make_model(kind)
    with pytest.raises(ValueError, match=r"does not keep sequences apart.*sft\.packing=false"):
        require_apart(model)
    items = sequences([5, 3])
    with pytest.raises(ValueError, match="does not keep sequences apart"):
        list(micro_batches(model, items, 100, packing=True))
    # Apart, it learns from them all the same.
    alone = by_hand(model, items)
    (part,) = micro_batches(model, items, 100, packing=False)
    logprobs, _, _ = target_predictions(model, part.input_ids, part.target_mask)
    torch.testing.assert_close(logprobs, torch.cat([alone[item.ids] for item in items]), rtol=1e-4, atol=1e-4)


def test_a_pass_by_hand():
    items = [Sequence((5, 6, 7), (True, False, True)), Sequence((8, 9), (False, True)), Sequence((4,) * 6, (True,) * 6)]
    packed = collate([items[:2], [items[2]]])
    assert packed.input_ids.tolist() == [[5, 6, 7, 8, 9, 0], [4] * 6]
    assert packed.position_ids.tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 4, 5]]
    # True where the next token is a target; the first token of a sequence is nobody's.
    assert packed.target_mask.tolist() == [[False, True, False, True, False], [True] * 5]
    assert collate([[items[0]], [items[1]]]).position_ids is None


def test_flash_attention_gets_one_row_a_pass():
    """Its boundaries come from the positions of a single row (transformers' `_is_packed_sequence`)."""
    model, items = make_model("llama"), sequences([9, 3, 2, 14, 5, 7, 2, 11])
    require_apart(model)
    model.config._attn_implementation = "flash_attention_2"
    parts = list(micro_batches(model, items, 30, packing=True))
    assert all(part.input_ids.shape[0] == 1 and part.input_ids.shape[1] <= 30 for part in parts) and len(parts) == 2
    assert sum(int((part.position_ids == 0).sum()) for part in parts) == len(items)


@pytest.mark.parametrize("row_tokens", [None, lambda longest: longest, lambda longest: 1000])
def test_every_sequence_has_one_place_and_passes_keep_to_their_size(row_tokens):
    rng = random.Random(1)
    for _ in range(50):
        lengths = [rng.randint(1, 40) for _ in range(rng.randint(1, 30))]
        passes = plan(lengths, 64, row_tokens)
        assert sorted(place for rows in passes for row in rows for place in row) == list(range(len(lengths)))
        for rows in passes:
            widths = [sum(lengths[place] for place in row) for row in rows]
            assert max(widths) * len(rows) <= 64
            assert row_tokens is not None or all(len(row) == 1 for row in rows)
        assert passes == plan(lengths, 64, row_tokens)


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_balanced_lists_are_within_the_bound_of_the_best(parts):
    rng = random.Random(parts)
    for _ in range(20):
        lengths = [rng.choice((0, 1, rng.randint(2, 9), rng.randint(10, 99))) for _ in range(rng.randint(0, 7))]
        lists = balance(lengths, parts)
        assert len(lists) == parts and sorted(place for held in lists for place in held) == list(range(len(lengths)))
        assert all(lists) or len(lengths) < parts
        found = max(sum(lengths[place] ** 2 for place in held) for held in lists)
        best = min(
            max(sum(length**2 for length, part in zip(lengths, where, strict=True) if part == mine) for mine in where)
            if where
            else 0
            for where in product(range(parts), repeat=len(lengths))
        )
        assert best <= found <= (4 / 3 - 1 / (3 * parts)) * best
        assert lists == balance(lengths, parts)


def test_packing_wastes_little_and_is_no_slower(capsys):
    """Skewed lengths, as answers have them; the printed figures are for the reader, the bound for a slip."""
    model, _ = load_policy(ModelSettings(path="tiny"))
    rng = random.Random(0)
    items = sequences([min(400, 10 + int(rng.lognormvariate(3.6, 0.8))) for _ in range(64)], vocabulary=400)
    real = sum(len(item.ids) for item in items)

    def measured(packing: bool) -> tuple[float, float]:
        seconds, held = [], 0
        for _ in range(2):
            start, held = time.perf_counter(), 0
            for part in micro_batches(model, items, 4096, packing):
                held += part.input_ids.numel()
                target_predictions(model, part.input_ids, part.target_mask, part.position_ids)[0].sum().backward()
            seconds.append(time.perf_counter() - start)
        return min(seconds), 1 - real / held

    require_apart(model)
    (padded, wasted), (packed, left) = measured(False), measured(True)
    with capsys.disabled():
        print(f"\npacked: {padded / packed:.2f} x padded in speed; padding {left:.0%} instead of {wasted:.0%}")
    assert left < 0.1 < wasted and packed < 1.5 * padded
