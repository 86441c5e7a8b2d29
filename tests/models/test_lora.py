"""Adapters: what they change, what is trained, what is saved of them, and what is refused."""

from __future__ import annotations

import copy
import importlib.util

import pytest
import torch
from adapted import IDS, assert_close, load, logits, logprobs, settings, shift
from transformers import LlamaConfig, LlamaForCausalLM

from r1lit.models.files import path_problem
from r1lit.models.loading import ModelSettings, clone_frozen, save_model
from r1lit.models.lora import LoraSettings, attach, merged_weights, parameter_counts, trained_parameters
from r1lit.models.packing import keeps_apart
from r1lit.models.reference import make_reference, reference_model, refresh
from r1lit.models.reward_model import load_reward_model, new_reward_model, row_scores
from r1lit.rollout.vllm_weights import named_weights
from r1lit.settings import ConfigError, parse


@pytest.fixture(scope="module")
def base():
    return load(lora={})


def test_new_adapters_change_no_bit_and_only_they_are_trained(base):
    model = load()
    assert type(model) is type(base)
    assert torch.equal(logprobs(model), logprobs(base))
    # A and B of rank 4, for the seven linear layers of each of two blocks.
    layers = [m for m in base.model.layers.modules() if isinstance(m, torch.nn.Linear)]
    trained = sum(4 * (m.in_features + m.out_features) for m in layers)
    assert len(layers) == 14
    assert parameter_counts(model) == (trained, trained + parameter_counts(base)[1])
    logprobs(model).sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == ("lora_" in name), name


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapted_layer_computes_what_the_paper_says(rslora):
    model = load(lora={"rank": 4, "alpha": 6, "rslora": rslora, "target_modules": ["q_proj"]})
    shift(model)
    layer = model.model.layers[0].self_attn.q_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    x = torch.randn(3, a.shape[1], generator=torch.Generator().manual_seed(1))
    expected = x @ layer.base_layer.weight.T + (6 / (2 if rslora else 4)) * (x @ a.T) @ b.T
    torch.testing.assert_close(layer(x), expected)


def test_the_seed_decides_the_draw_and_leaves_other_draws_alone():
    torch.manual_seed(3)
    expected = torch.randn(1)
    torch.manual_seed(3)
    first = load().state_dict()
    assert torch.equal(torch.randn(1), expected)
    again, other = load().state_dict(), load(lora={"rank": 4, "seed": 1}).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("checkpointing", ["none", "full", "selective"])
def test_log_probs_and_their_gradients_are_those_of_the_models_logits(checkpointing, monkeypatch):
    """In chunks of five tokens, with a backward that computes them again."""
    monkeypatch.setattr("r1lit.functional.head.CHUNK_LOGITS", 5 * 614)
    model = load(activation_checkpointing=checkpointing).train()
    shift(model)
    got = logprobs(model)
    lines = (model(input_ids=IDS, use_cache=False).logits[:, :-1] / 0.8).log_softmax(-1)
    expected = lines.gather(-1, IDS[:, 1:, None])[..., 0]
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn(got.shape, generator=torch.Generator().manual_seed(2))
    pairs = zip(
        *(torch.autograd.grad((weights * value).sum(), trained_parameters(model)) for value in (got, expected)),
        strict=True,
    )
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def test_packed_rows_are_apart_with_adapters_too():
    model = load()
    shift(model)
    assert keeps_apart(model)


def test_the_reference_is_the_base_until_it_is_refreshed(base):
    model = load()
    reference = make_reference(model)
    # No second model: what it holds is as small as the adapters.
    assert sum(p.numel() for p in reference.parameters()) == parameter_counts(model)[0]
    shift(model)
    moved = logits(model)
    with reference_model(reference, model) as held:
        assert torch.equal(logits(held), logits(base))
    assert torch.equal(logits(model), moved) and not torch.equal(moved, logits(base))
    refresh(reference, model)
    shift(model)
    with reference_model(reference, model) as held:
        assert torch.equal(logits(held), moved)
    assert not torch.equal(logits(model), moved)
    assert all(parameter.requires_grad for name, parameter in model.named_parameters() if "lora_" in name)


def test_a_state_holds_the_adapters_alone_and_is_enough():
    model, fresh = load(), load(lora={"rank": 4, "seed": 9})
    shift(model)
    state = model.state_dict()
    assert len(state) == 28 and all("lora_" in name for name in state)
    fresh.load_state_dict(state)
    assert torch.equal(logits(fresh), logits(model))
    assert torch.equal(logits(copy.deepcopy(model)), logits(model))
    with pytest.raises(RuntimeError, match="Missing key"):
        fresh.load_state_dict(dict(list(state.items())[1:]))


def test_a_reward_models_head_is_trained_whole(tmp_path):
    model, tokenizer = new_reward_model(settings())
    trained, _ = parameter_counts(model)
    assert trained == parameter_counts(load())[0] + model.score.weight.numel()
    rows = [[1, 2, 3], [4, 5, 6, 7]]
    row_scores(model, rows).sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == ("lora_" in name or name == "score.weight"), name
    shift(model)
    save_model(model, tokenizer, tmp_path / "model")
    loaded, _, _ = load_reward_model(ModelSettings(path=str(tmp_path / "model")))
    with torch.no_grad():
        assert_close(row_scores(loaded, rows), row_scores(model, rows))


def test_four_bits_hold_the_base_and_gradients_pass_through_it(base):
    """Against the very weights that the four bits stand for, in a plain model."""
    model = load(quantization="nf4")
    held = {name: p for name, p in model.named_parameters() if p.dtype == torch.uint8}
    assert len(held) == 14 and not any("lora_" in name for name in held)
    # What they stand for is counted, not how it is packed.
    assert parameter_counts(model) == parameter_counts(load())
    shift(model)
    plain = load()
    plain.load_state_dict(model.state_dict())
    originals = dict(base.named_parameters())
    with torch.no_grad():
        for name, value in merged_weights(load(quantization="nf4")):
            place, _, kind = name.rpartition(".")
            layer = plain.get_submodule(place)
            getattr(layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer, kind).copy_(value)
            if "proj" in name:
                error = (value - originals[name]).abs().mean() / originals[name].abs().mean()
                assert 0.01 < error < 0.2, name
    got, expected = logprobs(model), logprobs(plain)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    for mine, theirs in zip(
        torch.autograd.grad(got.sum(), trained_parameters(model)),
        torch.autograd.grad(expected.sum(), trained_parameters(plain)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens", "q_proj"], ["q_prj"]], ids=str)
def test_adapters_elsewhere_are_refused(targets):
    model = LlamaForCausalLM(
        LlamaConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, vocab_size=30)
    )
    with pytest.raises(ValueError, match="target_modules") as error:
        attach(model, LoraSettings(rank=2, target_modules=targets))
    assert targets[0] in str(error.value)


def problems(**model) -> str:
    with pytest.raises(ConfigError) as error:
        parse({"model": ModelSettings}, {"model": model})
    return str(error.value)


def test_what_makes_no_sense_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    path = str(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "tiny"}')
    (tmp_path / "adapter_model.safetensors").touch()
    assert "trained as it samples" in problems(lora={"rank": 4, "dropout": 0.1})
    assert "set model.lora.rank=16" in problems(quantization="nf4")
    assert "model.lora.rnk is no setting; did you mean rank?" in problems(lora={"rnk": 4})
    assert "would have no base on the disk" in problems(path=path, lora={"rank": 4, "merge": False})
    assert "not added to 4-bit weights" in problems(path=path, lora={"rank": 4}, quantization="nf4")
    there = importlib.util.find_spec
    gone = ("peft", "bitsandbytes")
    for module in ("lora", "quantization", "adapters"):
        monkeypatch.setattr(f"r1lit.models.{module}.find_spec", lambda name: None if name in gone else there(name))
    assert "pip install 'r1lit[lora]'" in problems(lora={"rank": 4})
    assert "PEFT" in path_problem(path)
    gone = ("bitsandbytes",)
    assert "pip install 'r1lit[qlora]'" in problems(lora={"rank": 4}, quantization="nf4")
    # Without adapters neither is asked for.
    gone = ("peft", "bitsandbytes")
    assert ModelSettings().lora.rank is None


def test_an_engine_is_pushed_the_merged_weights_each_once(base):
    model = load()
    shift(model)
    pushed = dict(named_weights(model))
    assert pushed.keys() == dict(base.named_parameters()).keys()
    plain = clone_frozen(base)
    assert plain.load_state_dict(pushed, strict=False).unexpected_keys == []
    expected = model(input_ids=IDS, use_cache=False).logits
    torch.testing.assert_close(plain(input_ids=IDS, use_cache=False).logits, expected, rtol=1e-5, atol=1e-5)
