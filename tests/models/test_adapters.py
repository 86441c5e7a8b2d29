"""Adapters and files: what is written of an adapted model, and a folder of adapters given as a model."""

from __future__ import annotations

import copy
import json
import sys

import pytest
import torch
from adapted import IDS, MASK, assert_close, load, logits, settings, shift
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from r1lit.models.adapters import save_weights
from r1lit.models.files import path_problem
from r1lit.models.loading import ModelSettings, load_policy, load_tokenizer, save_model
from r1lit.models.logprobs import completion_logprobs
from r1lit.models.lora import LoraSettings, attach, merged_weights, trained_parameters
from r1lit.models.packing import Packed
from r1lit.models.reward_model import new_reward_model


@pytest.fixture(scope="module")
def base():
    return load(lora={})


@pytest.mark.parametrize("options", [{}, {"dtype": "bfloat16"}, {"quantization": "nf4"}], ids=str)
def test_a_merged_export_is_the_adapted_model_and_needs_no_peft(tmp_path, monkeypatch, options):
    model = load(**options)
    assert all(parameter.dtype == torch.float32 for parameter in trained_parameters(model))
    shift(model)
    before = logits(model)
    save_model(model, load_tokenizer(settings()), tmp_path / "model")
    assert torch.equal(logits(model), before)
    exact = options.get("dtype") != "bfloat16"
    # From here on to import it fails.
    monkeypatch.setitem(sys.modules, "peft", None)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert exported.dtype == (torch.float32 if exact else torch.bfloat16)
    if exact:
        assert_close(logits(exported), before)
    else:
        # The merged weights are rounded once, which 8 bits of mantissa show.
        assert (logits(exported) - before).abs().max() < 0.05 * before.abs().max()
    assert exported.generation_config.eos_token_id == model.generation_config.eos_token_id


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("qwen2", {"tie_word_embeddings": True}),
        ("gemma2", {"final_logit_softcapping": 2.0}),
        ("phi3", {}),
        ("gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 4}),
        ("mixtral", {"num_local_experts": 4}),
    ],
)
def test_other_architectures_are_adapted_and_merged(tmp_path, kind, options):
    """Fused projections, weights that lie the other way round, and experts in one tensor."""
    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3}
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **special, **options)).save_pretrained(
        tmp_path / "base"
    )
    base, model = (AutoModelForCausalLM.from_pretrained(tmp_path / "base") for _ in range(2))
    attach(model, LoraSettings(rank=2))
    assert torch.equal(logits(model), logits(base))
    shift(model)
    expected = logits(model)
    torch.testing.assert_close(
        completion_logprobs(model, Packed(IDS, MASK), MASK, 1.0)[0],
        expected[:, :-1].log_softmax(-1).gather(-1, IDS[:, 1:, None])[..., 0],
        rtol=1e-5,
        atol=1e-5,
    )
    save_weights(model, tmp_path / "merged", merge=True)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert exported.state_dict().keys() == base.state_dict().keys()
    assert_close(logits(exported), expected)
    assert not torch.allclose(expected, logits(base), atol=1e-2)


def test_an_adapter_that_would_be_lost_is_refused(monkeypatch):
    monkeypatch.setattr("r1lit.models.lora._parts", lambda model, name: (None, []))
    with pytest.raises(ValueError, match=r"cannot be added to a weight.*set model.lora.merge=false"):
        load()
    load(lora={"rank": 4, "merge": False})


def test_every_weight_is_given_by_its_plain_name(base):
    """What another engine is to be told; the rows of a rank-4 product have rank 4."""
    model = load()
    shift(model)
    whole = dict(merged_weights(model))
    assert whole.keys() == base.state_dict().keys()
    name = "model.layers.1.mlp.down_proj.weight"
    assert torch.linalg.matrix_rank((whole[name] - base.state_dict()[name]).double(), rtol=1e-4) == 4
    assert torch.equal(whole["model.embed_tokens.weight"], base.state_dict()["model.embed_tokens.weight"])


@pytest.fixture
def folder(tmp_path):
    """Adapters that were written alone, and the logits with them."""
    model = load()
    shift(model)
    save_model(model, load_tokenizer(settings()), tmp_path / "adapters", merge=False)
    return tmp_path / "adapters", logits(model)


def test_adapters_written_alone_are_pefts(folder, base):
    from peft import PeftModel

    path, expected = folder
    assert not (path / "model.safetensors").exists()
    assert len(load_file(path / "adapter_model.safetensors")) == 28
    assert_close(logits(PeftModel.from_pretrained(copy.deepcopy(base), path)), expected)


def test_a_folder_of_adapters_is_a_model(folder):
    path, expected = folder
    model, tokenizer = load_policy(ModelSettings(path=str(path)))
    assert_close(logits(model), expected)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert tokenizer.eos_token_id == model.generation_config.eos_token_id
    # Further adapters stand on it, and their reference is it.
    further = load(path=str(path))
    assert_close(logits(further), expected)
    scorer, _ = new_reward_model(ModelSettings(path=str(path)))
    for name, value in scorer.model.state_dict().items():
        torch.testing.assert_close(value, model.model.state_dict()[name])


def test_adapters_that_cannot_be_used_say_why(folder):
    path, _ = folder
    config = json.loads((path / "adapter_config.json").read_text())

    def problem(**changes):
        (path / "adapter_config.json").write_text(json.dumps(config | changes))
        return path_problem(str(path))

    assert problem() is None
    assert "only LORA is known" in problem(peft_type="IA3")
    assert "names no base_model_name_or_path" in problem(base_model_name_or_path=None)
    assert "holds adapters itself" in problem(base_model_name_or_path=str(path))
    assert "no such folder" in problem(base_model_name_or_path="/nowhere")
    problem(target_modules=["q_proj"])
    with pytest.raises(ValueError, match="tensors of its adapters have no place in the model or are missing"):
        load_policy(ModelSettings(path=str(path)))
    problem()
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")
    assert "loaded from safetensors alone" in path_problem(str(path))
