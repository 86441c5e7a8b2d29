from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from r1lit.models.files import path_problem
from r1lit.models.loading import ModelSettings, clone_frozen, copy_weights, load_policy, save_model, stop_ids
from r1lit.models.memory import decoder_layers

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}


def make_tokenizer(words: int = 30, **special):
    tokenizer = Tokenizer(WordLevel({f"w{i}": i for i in range(words)}, unk_token="w2"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **({"eos_token": "w1"} | special))


def make_model(seed: int = 0, **options):
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**SIZES | {"vocab_size": 30, "eos_token_id": 1} | options))


@pytest.fixture
def folder(tmp_path):
    """A saved model whose tokenizer has no padding token, and whose config has dropout."""
    make_model(attention_dropout=0.1).save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def load(path, **options):
    return load_policy(ModelSettings(path=str(path), **options))


def test_loads_without_dropout_and_with_a_padding_token(folder):
    model, tokenizer = load(folder)
    assert next(model.parameters()).dtype == torch.float32
    assert tokenizer.pad_token_id == 1
    assert len(tokenizer) == model.get_input_embeddings().num_embeddings == 30
    assert model.config.attention_dropout == 0
    ids = torch.arange(8)[None]
    torch.testing.assert_close(model.train()(ids).logits, model.eval()(ids).logits)


def test_dtype_and_attention_are_taken_from_the_settings(folder):
    model, _ = load(folder, dtype="bfloat16", attention="eager", activation_checkpointing="full")
    assert next(model.parameters()).dtype == torch.bfloat16
    assert model.config._attn_implementation == "eager"
    assert [layer.checkpointing for layer in decoder_layers(model)] == ["full"] * model.config.num_hidden_layers
    assert load(folder)[0].config._attn_implementation == "sdpa"


def test_missing_folders_answer_with_the_nearest_names(folder):
    with pytest.raises(FileNotFoundError, match=r"no such folder; did you mean .*base"):
        load(folder.parent / "bsae")


def test_folders_without_a_model_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(FileNotFoundError, match=r"has no config.json \(it holds: notes.txt\)"):
        load(tmp_path)


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no \*.safetensors"):
        load(folder)
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pickled weights only.*save_pretrained"):
        load(folder)


def test_encoders_are_refused(tmp_path):
    bert = BertForMaskedLM(BertConfig(vocab_size=30, **SIZES))
    bert.save_pretrained(tmp_path / "bert")
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=30, d_model=16, d_ff=8, d_kv=8, num_layers=1, num_heads=2))
    t5.save_pretrained(tmp_path / "t5")
    for name, kind in [("bert", "BertForMaskedLM"), ("t5", "T5ForConditionalGeneration")]:
        with pytest.raises(ValueError, match=f"holds {kind}, but a policy writes text from left to right"):
            load(tmp_path / name)


def test_weights_that_do_not_cover_the_model_are_refused(folder):
    LlamaModel(LlamaConfig(vocab_size=30, eos_token_id=1, **SIZES)).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(ValueError, match=r"1 tensors are missing .*lm_head.weight.* would start at random"):
        load(folder)


def test_a_tokenizer_larger_than_the_embeddings_is_refused(folder):
    make_tokenizer(31).save_pretrained(folder)
    with pytest.raises(ValueError, match="largest id is 30, but the model embeds 30 tokens"):
        load(folder)


def test_stop_ids_are_the_generation_configs_and_the_tokenizers():
    model = make_model()
    model.generation_config.eos_token_id = [5, 1, 7]
    assert stop_ids(model, make_tokenizer()) == (5, 1, 7)
    model.generation_config.eos_token_id = 5
    assert stop_ids(model, make_tokenizer()) == (5, 1)
    model.generation_config.eos_token_id = None
    with pytest.raises(ValueError, match="neither the generation config nor the tokenizer has an eos token"):
        stop_ids(model, make_tokenizer(eos_token=None))


def test_a_frozen_clone_shares_nothing():
    model = make_model(tie_word_embeddings=True).train()
    model(torch.arange(5)[None]).logits.sum().backward()
    clone = clone_frozen(model)
    assert not clone.training
    assert model.training
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in clone.parameters())
    assert clone.lm_head.weight is clone.model.embed_tokens.weight
    before = clone(torch.arange(5)[None]).logits
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.zero_()
    assert torch.equal(clone(torch.arange(5)[None]).logits, before)


def test_weights_are_copied_in_place():
    source, target = make_model(1), make_model(2)
    tensors = list(target.parameters())
    copy_weights(source, target)
    assert all(a is b for a, b in zip(tensors, target.parameters(), strict=True))
    assert all(torch.equal(a, b) and a is not b for a, b in zip(source.parameters(), target.parameters(), strict=True))
    with pytest.raises(RuntimeError, match="size mismatch"):
        copy_weights(make_model(vocab_size=31), target)


def test_saved_models_load_anywhere_and_replace_what_was_there(folder):
    model, tokenizer = load(folder)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    out = folder.parent / "out" / "model"
    for _ in range(2):
        save_model(model, tokenizer, out)
    assert [path.name for path in out.parent.iterdir()] == ["model"]
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    assert (loaded.generation_config.eos_token_id, loaded.generation_config.pad_token_id) == (1, 1)
    assert AutoTokenizer.from_pretrained(out).chat_template == tokenizer.chat_template
    assert any(out.glob("*.safetensors"))


def test_a_failed_save_leaves_the_old_model(folder):
    model, tokenizer = load(folder)

    class Full(type(tokenizer)):
        def save_pretrained(self, *args, **kwargs):
            raise OSError("no space left")

    tokenizer.__class__ = Full
    kept = sorted(path.name for path in folder.iterdir())
    with pytest.raises(OSError, match="no space left"):
        save_model(model, tokenizer, folder)
    assert sorted(path.name for path in folder.iterdir()) == kept
    assert [path.name for path in folder.parent.iterdir()] == ["base"]


@pytest.mark.parametrize(("name", "width"), [("tiny", 128), ("tiny-student", 64)])
def test_the_embedded_models_are_found_by_name_wherever_one_works(name, width, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, tokenizer = load(name)
    assert model.config.hidden_size == width
    assert tokenizer.decode(tokenizer("<think> 三 </think>").input_ids) == "<think> 三 </think>"
    assert path_problem(name) is None


def test_a_misspelt_embedded_model_is_answered_with_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"no local folder has this name \(did you mean tiny-student"):
        load("tiny-studnet")
