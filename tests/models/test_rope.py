"""Stretched positions: as transformers builds them from the exported config, and refused where they make no sense."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GPT2Config, LlamaConfig, LlamaForCausalLM

from r1lit.models.loading import ModelSettings, load_policy, save_model
from r1lit.models.rope import RopeScaling, stretch_positions
from r1lit.settings import ConfigError, parse

LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALINGS = {
    "linear": {"type": "linear", "factor": 4},
    "yarn": {"type": "yarn", "factor": 4, "beta_fast": 16},
    "llama3": {"type": "llama3", "factor": 4, **LLAMA3},
}


def load(path="tiny", **scaling):
    return load_policy(ModelSettings(path=str(path), rope_scaling=scaling or None))


@pytest.fixture(scope="module")
def plain():
    return load()[0]


@pytest.mark.parametrize("kind", SCALINGS)
def test_the_exported_model_is_the_one_that_was_trained(tmp_path, plain, kind):
    """Beyond the 512 positions of the tiny model, whose logits it no longer has."""
    model, tokenizer = load(**SCALINGS[kind])
    ids = torch.randint(600, (1, 700), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(input_ids=ids).logits
        assert not torch.allclose(logits, plain(input_ids=ids).logits, atol=1e-3)
        save_model(model, tokenizer, tmp_path / "model")
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        assert theirs.config.max_position_embeddings == 2048
        assert torch.equal(theirs(input_ids=ids).logits, logits)
        # And transformers' own model, built from written parameters.
        parameters = {"rope_theta": 10000.0, "rope_type": kind, **SCALINGS[kind]}
        del parameters["type"]
        if kind != "linear":
            parameters["original_max_position_embeddings"] = 512
        config = LlamaConfig.from_pretrained(tmp_path / "model", rope_parameters=parameters)
        built = LlamaForCausalLM(config).eval()
        built.load_state_dict(plain.state_dict())
        assert torch.equal(built(input_ids=ids).logits, logits)
    # A next stage has the same setting, and this model.
    again, _ = load(tmp_path / "model", **SCALINGS[kind])
    assert again.config.max_position_embeddings == 2048
    with pytest.raises(ValueError, match="is stretched already"):
        load(tmp_path / "model", **SCALINGS[kind] | {"factor": 8})


def test_frequencies_by_hand(plain):
    """Slow turns, which training never saw whole, are slowed by the factor; fast ones stay but under linear scaling."""
    before = plain.model.rotary_emb.inv_freq
    turns = 512 * before / (2 * math.pi)
    assert turns[0] > 32 and turns[-1] < 1
    frequencies = {kind: load(**scaling)[0].model.rotary_emb.inv_freq for kind, scaling in SCALINGS.items()}
    torch.testing.assert_close(frequencies["linear"], before / 4)
    for kind in ("yarn", "llama3"):
        assert frequencies[kind][0] == before[0]
        torch.testing.assert_close(frequencies[kind][-1], before[-1] / 4)
    blend = (turns - 1) / (4 - 1)
    between = (1 - blend) * before / 4 + blend * before
    expected = torch.where(turns > 4, before, torch.where(turns < 1, before / 4, between))
    torch.testing.assert_close(frequencies["llama3"], expected)


@pytest.mark.parametrize(
    ("scaling", "problem"),
    [
        ({"factor": 4}, "model.rope_scaling.type is missing"),
        ({"type": "yarn"}, "model.rope_scaling.factor is missing"),
        ({"type": "yarn", "factor": 1}, "model.rope_scaling.factor=1: input should be greater than 1"),
        ({"type": "llama3", "factor": 8}, "without low_freq_factor and high_freq_factor, .*; set model.rope"),
        ({"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}, "set it higher"),
        ({"type": "linear", "factor": 4, "beta_fast": 3}, "beta_fast=3.0 says nothing to type=linear; drop it"),
        ({"type": "dynamic", "factor": 4}, "type=dynamic turns .*; set model.rope_scaling.type=yarn"),
    ],
)
def test_mistakes_are_found_before_a_model_is_loaded(scaling, problem):
    with pytest.raises(ConfigError, match=problem):
        parse({"model": ModelSettings}, {"model": {"rope_scaling": scaling}})


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (GPT2Config(), r"\(gpt2\) has no rotary positions.*set model.rope_scaling=null"),
        (Gemma3TextConfig(), r"\(gemma3_text\) has rotary positions that differ by kind of layer"),
    ],
)
def test_models_that_cannot_be_stretched_are_refused(config, problem):
    with pytest.raises(ValueError, match=problem):
        stretch_positions(config, RopeScaling(type="yarn", factor=2), "model")


def test_no_model_is_made_shorter():
    with pytest.raises(ValueError, match=r"makes 64 positions 128, but model.path=x has 2048 already; set a larger"):
        stretch_positions(LlamaConfig(), RopeScaling(type="yarn", factor=2, original_max_position_embeddings=64), "x")
