"""Sequences in shared rows come out as they do alone: targets and gradients, on several architectures."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from itertools import product

import pytest
import torch
from small_models import KINDS, LEAKING, exact_varlen, make_model, reference_varlen

from r1lit.models import attention
from r1lit.models.attention import TORCH_VARLEN
from r1lit.models.loading import ModelSettings, load_policy
from r1lit.models.logprobs import target_predictions
from r1lit.models.packing import balance, collate, keeps_apart, micro_batches, packs, plan

UNCAPPED = [kind for kind in KINDS if kind != "gemma2"]
WAYS = [
    *((kind, "eager") for kind in KINDS),
    *((kind, "sdpa") for kind in UNCAPPED),
    *((kind, TORCH_VARLEN) for kind in UNCAPPED if kind != "gpt2"),
]


@dataclass(frozen=True)
class Sequence:
    ids: tuple[int, ...]
    trained: tuple[bool, ...]


def sequences(lengths, vocabulary: int = 50) -> list[Sequence]:
    rng = random.Random(0)
    return [
        Sequence(tuple(rng.randrange(2, vocabulary) for _ in range(n)), tuple(rng.random() < 0.6 for _ in range(n)))
        for n in lengths
    ]


def by_hand(model, items) -> dict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor]]:
    """Each sequence's targets by the model's own logits, alone in its batch: log-probabilities and entropies."""
    found = {}
    for item in items:
        lines = model(input_ids=torch.tensor([item.ids])).logits[0, :-1].log_softmax(-1)
        flags = torch.tensor(item.trained[1:])
        logprobs = lines.gather(1, torch.tensor(item.ids[1:])[:, None])[:, 0][flags]
        found[item.ids] = logprobs, -(lines.exp() * lines).sum(-1)[flags]
    return found


def in_passes(model, items, tokens: int, packing: str):
    """As ``by_hand``, from passes of several sequences."""
    found = {}
    for part in micro_batches(model, items, tokens, packing):
        held = [items[place] for place in part.places]
        logprobs, entropies, _ = target_predictions(model, part)
        counts = [sum(item.trained[1:]) for item in held]
        pairs = zip(logprobs.split(counts), entropies.split(counts), strict=True)
        found |= {item.ids: pair for item, pair in zip(held, pairs, strict=True)}
    return found


@pytest.mark.parametrize(("kind", "name"), WAYS)
def test_packed_sequences_come_out_as_alone(kind, name, monkeypatch):
    monkeypatch.setattr(attention, "varlen_attn", exact_varlen)
    model, items = make_model(kind, name), sequences([9, 3, 2, 14, 5, 7, 2, 11])
    plain = make_model(kind, "eager")
    alone = by_hand(plain, items)
    weights = {item.ids: torch.randn(sum(item.trained[1:])) for item in items}
    expected = sum((alone[ids][0] * weight).sum() for ids, weight in weights.items())
    want = torch.autograd.grad(expected, [*plain.parameters()], allow_unused=True)
    largest = max(gradient.abs().max().item() for gradient in want if gradient is not None)
    for tokens, packing in ((28, "packed"), (1000, "packed"), (28, "padded"), (1, "auto")):
        found = in_passes(model, items, tokens, packing)
        for ids, (logprobs, entropies) in alone.items():
            torch.testing.assert_close(found[ids][0], logprobs, rtol=0, atol=1e-5)
            torch.testing.assert_close(found[ids][1], entropies, rtol=0, atol=1e-5)
        loss = sum((found[ids][0] * weight).sum() for ids, weight in weights.items())
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
        gradients = torch.autograd.grad(loss, [*model.parameters()], allow_unused=True)
        for got, gradient in zip(gradients, want, strict=True):
            assert (got is None) == (gradient is None)
            if got is not None:
                torch.testing.assert_close(got, gradient, rtol=0, atol=1e-5 * largest)


@pytest.mark.parametrize("kind", ["qwen2", "gemma3_text"])
def test_torchs_kernel_is_given_halves_whatever_the_weights_are(kind, monkeypatch):
    """As in a run: float32 weights under autocast, and outside of one in the arithmetic of the model's own."""
    monkeypatch.setattr(attention, "varlen_attn", reference_varlen)
    model, items = make_model(kind, attention.TORCH_VARLEN), sequences([9, 3, 14, 5])
    alone = by_hand(make_model(kind, "eager"), items)
    for arithmetic in (torch.autocast("cpu", torch.bfloat16), attention.in_own_arithmetic(model)):
        with arithmetic, torch.no_grad():
            found = in_passes(model, items, 28, "packed")
        for ids, (logprobs, _) in alone.items():
            # A few roundings to bfloat16 at the size of these log-probs, between 4 and 8; the test above is exact.
            torch.testing.assert_close(found[ids][0].float(), logprobs, rtol=0, atol=4 * 2**-5)
    with pytest.raises(RuntimeError, match="bfloat16 or float16 alone"):
        in_passes(model, items, 28, "packed")


def test_the_windows_of_sliding_attention_are_shorter_than_the_sequences():
    """Else the test above would tell nothing of them."""
    narrow, wide = make_model("mistral"), make_model("mistral")
    wide.config.sliding_window = 64
    ids = torch.tensor([sequences([14])[0].ids])
    assert (narrow(ids).logits - wide(ids).logits).abs().max() > 0.01


@pytest.mark.parametrize("kind", LEAKING)
def test_models_that_mix_sequences_get_them_padded(kind):
    model, items = make_model(kind), sequences([5, 3])
    assert not keeps_apart(model) and not packs(model, "auto")
    with pytest.raises(ValueError, match=r"packing=packed, but .* does not keep sequences apart.*packing=padded"):
        list(micro_batches(model, items, 100, "packed"))
    # Apart, it learns from them all the same.
    alone = by_hand(model, items)
    (part,) = micro_batches(model, items, 100)
    logprobs, _, _ = target_predictions(model, part)
    torch.testing.assert_close(logprobs, torch.cat([alone[item.ids][0] for item in items]), rtol=1e-4, atol=1e-4)


def test_a_pass_by_hand():
    items = [Sequence((5, 6, 7), (True, False, True)), Sequence((8, 9), (False, True)), Sequence((4,) * 6, (True,) * 6)]
    packed = collate(items, [[1, 0], [2]])
    assert packed.input_ids.tolist() == [[8, 9, 5, 6, 7, 0], [4] * 6]
    assert packed.position_ids.tolist() == [[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5]]
    # True where the next token is a target; the first token of a sequence is nobody's.
    assert packed.target_mask.tolist() == [[True, False, False, True, False], [True] * 5]
    assert (packed.places, packed.longest, packed.boundaries) == ((1, 0, 2), 6, None)
    assert collate(items, [[2, 0]]).boundaries.tolist() == [0, 6, 9]
    assert collate(items, [[0], [1]]).position_ids is None


def test_a_kernel_that_is_told_boundaries_gets_one_row_a_pass():
    model, items = make_model("llama"), sequences([9, 3, 2, 14, 5, 7, 2, 11])
    assert keeps_apart(model)
    model.config._attn_implementation = "flash_attention_2"
    parts = list(micro_batches(model, items, 30))
    assert all(part.input_ids.shape[0] == 1 and part.input_ids.shape[1] <= 30 for part in parts) and len(parts) == 2
    for part in parts:
        inputs = part.inputs(model)
        assert inputs["cu_seq_lens_q"].diff().tolist() == [len(items[place].ids) for place in part.places]
        assert inputs["max_length_q"] == inputs["max_length_k"] == part.longest
    model.config._attn_implementation = "sdpa"
    assert set(parts[0].inputs(model)) == {"input_ids", "position_ids"}


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

    def measured(packing: str) -> tuple[float, float]:
        seconds, held = [], 0
        for _ in range(2):
            start, held = time.perf_counter(), 0
            for part in micro_batches(model, items, 4096, packing):
                held += part.input_ids.numel()
                target_predictions(model, part)[0].sum().backward()
            seconds.append(time.perf_counter() - start)
        return min(seconds), 1 - real / held

    assert keeps_apart(model)
    (padded, wasted), (packed, left) = measured("padded"), measured("packed")
    with capsys.disabled():
        print(f"\npacked: {padded / packed:.2f} x padded in speed; padding {left:.0%} instead of {wasted:.0%}")
    assert left < 0.1 < wasted and packed < 1.5 * padded
