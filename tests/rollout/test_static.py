"""Decoding with fixed shapes draws what the model as it stands draws, and its steps can be recorded and compiled."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from made_tokenizers import byte_level
from recording import recorder
from small_models import KINDS, make_model
from torch import nn

from r1lit.models.memory import compiler_problem
from r1lit.rollout import recording, static, transformers_sampler
from r1lit.rollout.grouped import grouped_attention
from r1lit.rollout.shell import Shell
from r1lit.rollout.transformers_sampler import TransformersSampler
from r1lit.types import Prompt, Sampling

PADDED = [Prompt(ids=ids, raw="") for ids in [(5, 6, 7), (8,), (9, 10, 11, 12, 13, 14), (15, 16)]]
UNPADDED = [Prompt(ids=ids, raw="") for ids in [(5, 6, 7), (8, 9, 10)]]
STOPS = tuple(range(1, 7))
SAMPLING = Sampling(max_tokens=24)


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level()


@pytest.fixture
def small(monkeypatch):
    """Sizes at which short rows already outgrow the slots and are dropped."""
    monkeypatch.setattr(static, "FIRST_SLOTS", 8)
    monkeypatch.setattr(static, "SLOT_BLOCK", 4)
    monkeypatch.setattr(static, "FEWEST_ROWS", 2)


@pytest.fixture
def recordings(monkeypatch):
    """Steps are recorded on this CPU as they are on CUDA."""
    kind = recorder()
    monkeypatch.setitem(recording.RECORDINGS, "cpu", kind)
    return kind.made


def draw(model, tokenizer, decoding, prompts=PADDED, sampling=SAMPLING):
    sampler = TransformersSampler(model, tokenizer, decoding=decoding)
    sampler.stops = STOPS
    return sampler.generate(prompts, 5, sampling, seed=3)


def assert_same(mine, expected):
    assert torch.equal(mine.completion_ids, expected.completion_ids)
    torch.testing.assert_close(mine.logprobs, expected.logprobs, atol=1e-5, rtol=0)
    assert [group.completion_ids for group in mine.groups] == [group.completion_ids for group in expected.groups]


@pytest.mark.parametrize("prompts", [PADDED, UNPADDED], ids=["padded", "unpadded"])
@pytest.mark.parametrize("kind", KINDS)
def test_recorded_steps_draw_what_the_model_as_it_stands_draws(kind, prompts, tokenizer, small, recordings):
    model = make_model(kind)
    expected = draw(model, tokenizer, "eager", prompts)
    assert not recordings
    assert_same(draw(model, tokenizer, "static", prompts), expected)
    # Slots doubled, and rows were dropped; what is replayed asked Python nothing.
    assert len(recordings) >= 4
    assert sum(recorded.replays for recorded in recordings) >= 4


def test_shapes_are_few(tokenizer, small, monkeypatch):
    """One for each doubling of the slots, and one for each halving of the rows."""
    shapes, move = [], static.StaticDecoder._move

    def moved(decoder, rows):
        move(decoder, rows)
        shapes.append((len(decoder.logits), decoder._inputs.slots))

    monkeypatch.setattr(static.StaticDecoder, "_move", moved)
    draw(make_model("llama"), tokenizer, "static")
    rows, slots = (sorted({shape[part] for shape in shapes}) for part in (0, 1))
    assert set(rows) <= {2, 4, 8, 16, 20} and rows[-1] == 20 and len(rows) > 2
    assert set(slots) <= {8, 16, 32}  # the longest row: 6 + 24 tokens, in blocks of 4
    assert len(shapes) == len(set(shapes))


def test_weights_changed_in_place_or_replaced_are_seen(tokenizer, small):
    model = make_model("qwen3")
    sampler = TransformersSampler(model, tokenizer, decoding="static")
    before = sampler.generate(PADDED, 2, SAMPLING, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    changed = sampler.generate(PADDED, 2, SAMPLING, seed=0)
    assert not torch.equal(changed.completion_ids, before.completion_ids)
    assert_same(changed, TransformersSampler(model, tokenizer).generate(PADDED, 2, SAMPLING, seed=0))
    model.lm_head.weight = nn.Parameter(-model.lm_head.weight.detach())
    assert_same(
        sampler.generate(PADDED, 2, SAMPLING, seed=0),
        TransformersSampler(model, tokenizer).generate(PADDED, 2, SAMPLING, seed=0),
    )


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_a_shell_holds_the_models_own_weights_and_leaves_the_model_as_it_is(kind, tokenizer):
    model = make_model(kind).train()
    names, attention = list(model.state_dict()), model.config._attn_implementation
    shell = Shell(model)
    assert all(a is b for a, b in zip(shell.model.parameters(), model.parameters(), strict=True))
    draw(model, tokenizer, "static", UNPADDED, Sampling(max_tokens=2))
    assert model.training and list(model.state_dict()) == names
    assert model.config._attn_implementation == attention


@torch.no_grad()
def test_weights_that_are_rounded_beforehand_compute_what_autocast_computes():
    model = make_model("qwen2")  # its head is its embedding, which autocast does not round
    shell, ids = Shell(model), torch.randint(1, 50, (3, 9))
    own = [id(parameter) for parameter in shell.model.parameters()]
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(input_ids=ids).logits
        with shell.rounded() as rounded:
            assert rounded.lm_head.weight.dtype == torch.bfloat16
            assert model.lm_head.weight.dtype == model.get_input_embeddings().weight.dtype == torch.float32
            assert torch.equal(rounded(inputs_embeds=model.get_input_embeddings()(ids)).logits, expected)
    assert [id(parameter) for parameter in shell.model.parameters()] == own
    with shell.rounded() as plain:
        assert plain.lm_head.weight is model.lm_head.weight


def test_a_step_under_autocast_rounds_no_weight(tokenizer, recordings):
    """A recorded step would do so again for each token, and read twice the bytes."""
    model = make_model("qwen2")
    with torch.autocast("cpu", torch.bfloat16):
        mine, expected = (draw(model, tokenizer, decoding, UNPADDED) for decoding in ("static", "eager"))
    weights = {parameter.shape for parameter in model.parameters() if parameter.dim() == 2}
    (tape,) = {recorded.tape for recorded in recordings if recorded.tape.ran and recorded.replays > 5}
    casts = [args[0] for func, args, *_ in tape.ran if func is torch.ops.aten._to_copy.default]
    assert casts and not any(tensor.shape in weights for tensor in casts)
    assert all(layer.dtype == torch.bfloat16 for layer in _buffers(tape))
    torch.testing.assert_close(mine.logprobs[:, 0], expected.logprobs[:, 0])


def _buffers(tape):
    return [args[0] for func, args, *_ in tape.ran if func is torch.ops.aten.index_copy_.default]


def test_heads_that_share_a_key_head_see_what_they_would_see_alone():
    """By hand in float64: each query head with the keys of its group, softmax over the keys that are seen."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(3, heads, length, 8, generator=generator, dtype=torch.float64)
        for heads, length in ((6, 1), (2, 5), (2, 5))
    )
    seen = torch.tensor([[0, 1, 1, 1, 0], [1, 1, 1, 1, 0], [0, 0, 0, 1, 0]], dtype=torch.bool)
    out, _ = grouped_attention(nn.Module(), query, key, value, seen[:, None, None], scaling=0.3)
    for row in range(3):
        for head in range(6):
            scores = key[row, head // 3, seen[row]] @ query[row, head, 0] * 0.3
            expected = scores.softmax(-1) @ value[row, head // 3, seen[row]]
            torch.testing.assert_close(out[row, 0, head], expected)


@pytest.mark.skipif(compiler_problem(torch.device("cpu")) is not None, reason="no C++ compiler")
def test_compiled_steps_draw_the_same_and_one_compilation_serves_all_shapes(tokenizer, small):
    model = make_model("llama", layers=1)
    torch._dynamo.utils.counters.clear()
    for prompts in (PADDED, UNPADDED):
        assert_same(draw(model, tokenizer, "compiled", prompts), draw(model, tokenizer, "eager", prompts))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_the_compilers_front_end_takes_windows_caps_and_two_masks_whole(tokenizer, small, monkeypatch):
    compiled = torch.compile(static._forward, dynamic=True, fullgraph=True, backend="eager")
    monkeypatch.setitem(static.FORWARDS, "compiled", lambda: compiled)
    model = make_model("gemma2")
    assert_same(draw(model, tokenizer, "compiled"), draw(model, tokenizer, "eager"))


def _rope(kind):
    def change(model):
        model.config.rope_parameters = {"rope_type": kind, "rope_theta": 1e4, "factor": 2.0}

    return change


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("bloom", lambda model: None, "not told where tokens stand"),
        ("lfm2", lambda model: None, "does not say that Lfm2ForCausalLM|of the types"),
        ("llama", _rope("dynamic"), r"rotary positions \(dynamic\) change with the length"),
        ("llama", lambda model: setattr(model, "is_quantized", True), "weights are quantized"),
        ("llama", lambda model: setattr(model.config, "attention_chunk_size", 8), "of the types"),
    ],
)
def test_models_that_cannot_are_refused_before_anything_is_sampled(kind, change, reason, tokenizer):
    model = make_model(kind)
    change(model)
    with pytest.raises(ValueError, match=rf"rollout.decode=static, but .*({reason}).*; set rollout.decode=eager"):
        TransformersSampler(model, tokenizer, decoding="static")


def test_a_sampler_says_how_it_decodes_and_passes_it_on(tokenizer):
    model = make_model("llama")
    said = {kind: TransformersSampler(model, tokenizer, decoding=kind).description for kind in static.FORWARDS}
    said["eager"] = TransformersSampler(model, tokenizer).description
    assert len(set(said.values())) == 3 and "fixed shapes" in said["static"] and "compiled" in said["compiled"]
    apart = TransformersSampler(model, tokenizer, 7, "static").apart()
    assert apart.decoding == "static" and apart.max_batch_rows == 7
    assert apart.description == said["static"].replace("the weights that are trained", "a copy of the weights")


def test_caches_end_with_their_batch(tokenizer, monkeypatch, recordings):
    made = []

    class Watched(transformers_sampler.StaticDecoder):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(weakref.ref(self))

    monkeypatch.setattr(transformers_sampler, "StaticDecoder", Watched)
    gc.disable()
    try:
        draw(make_model("llama"), tokenizer, "static")
        assert made and not any(decoder() for decoder in made)
    finally:
        gc.enable()


def test_hooks_of_the_model_are_not_run_by_the_steps(tokenizer):
    model, passes = make_model("llama"), []
    handle = model.model.layers[0].register_forward_pre_hook(lambda *_: passes.append(1))
    draw(model, tokenizer, "static")
    assert len(passes) == 1, "the prompts' pass alone is the model's"
    handle.remove()
    assert model.model.layers[0]._forward_pre_hooks == {}
