"""Loading, scoring and saving reward models, against transformers' own class and a process without r1lit."""

from __future__ import annotations

import json
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForSequenceClassification,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from r1lit.models.loading import ModelSettings, load_policy, save_model
from r1lit.models.reward_model import (
    Scoring,
    load_reward_model,
    new_reward_model,
    row_scores,
    score_rows,
    scoring_of,
    set_scoring,
)

ROWS = [[5, 6, 7, 8], [9], [10, 11, 12, 13, 14, 15, 16], [5, 6]]


@pytest.fixture(scope="module")
def tiny():
    return new_reward_model(ModelSettings(path="tiny"), head_std=0.5, seed=3)


def by_hand(model, rows) -> torch.Tensor:
    """The head on the backbone's last hidden state, each row alone and unpadded."""
    with torch.no_grad():
        hidden = [model.base_model(torch.tensor([row])).last_hidden_state[0, -1] for row in rows]
        return torch.stack([(model.score.weight.double() @ state.double())[0] for state in hidden]).float()


def test_the_score_is_the_heads_at_the_last_token(tiny):
    model, _ = tiny
    expected = by_hand(model, ROWS)
    assert expected.std() > 0.1
    with torch.no_grad():
        torch.testing.assert_close(row_scores(model, ROWS), expected, rtol=1e-5, atol=1e-5)
    for batch in (1, 3, 64):
        torch.testing.assert_close(score_rows(model, ROWS, batch), expected, rtol=1e-5, atol=1e-5)
    assert score_rows(model, [], 4).shape == (0,)


def test_the_backbone_is_the_policys_and_the_head_the_seeds(tiny):
    model, tokenizer = tiny
    policy, _ = load_policy(ModelSettings(path="tiny"))
    for name, value in policy.base_model.state_dict().items():
        assert torch.equal(model.base_model.state_dict()[name], value)
    again, _ = new_reward_model(ModelSettings(path="tiny"), head_std=0.5, seed=3)
    other, _ = new_reward_model(ModelSettings(path="tiny"), head_std=0.5, seed=4)
    zero, _ = new_reward_model(ModelSettings(path="tiny"), head_std=0.0)
    assert torch.equal(again.score.weight, model.score.weight)
    assert not torch.equal(other.score.weight, model.score.weight)
    assert model.score.weight.std().item() == pytest.approx(0.5, rel=0.3)
    assert not zero.score.weight.any() and not score_rows(zero, ROWS, 4).any()
    assert isinstance(model, LlamaForSequenceClassification)
    assert (model.config.num_labels, model.config.pad_token_id) == (1, tokenizer.pad_token_id)


def test_plain_transformers_gives_the_same_scores(tiny, tmp_path):
    """In a process that knows nothing of r1lit, padded on either side."""
    model, tokenizer = tiny
    set_scoring(model, Scoring("pairwise", "answer", "none", 1.5, 2.0, 40))
    save_model(model, tokenizer, tmp_path / "model")
    code = """
import json, sys, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
given = {}
for side in ("left", "right"):
    batch = tokenizer.pad({"input_ids": json.loads(sys.argv[2])}, padding_side=side, return_tensors="pt")
    with torch.no_grad():
        given[side] = model(**batch).logits[:, 0].tolist()
assert "r1lit" not in sys.modules
print(json.dumps(given))
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(tmp_path / "model"), json.dumps(ROWS)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    given = json.loads(done.stdout.splitlines()[-1])
    for side in ("left", "right"):
        torch.testing.assert_close(torch.tensor(given[side]), score_rows(model, ROWS, 4), rtol=1e-5, atol=1e-5)
    loaded, _, scoring = load_reward_model(ModelSettings(path=str(tmp_path / "model")))
    assert torch.equal(score_rows(loaded, ROWS, 4), score_rows(model, ROWS, 4))
    assert scoring == Scoring("pairwise", "answer", "none", 1.5, 2.0, 40)


def test_a_model_that_pads_with_its_end(tmp_path):
    """Common among released models: the end is then skipped as padding is, alone as well as in a batch."""
    _, tokenizer = load_policy(ModelSettings(path="tiny"))
    size = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}
    config = GPT2Config(vocab_size=len(tokenizer), initializer_range=0.3, **size)
    torch.manual_seed(0)
    tokenizer.pad_token = tokenizer.eos_token
    save_model(GPT2LMHeadModel(config), tokenizer, tmp_path / "policy")
    model, tokenizer = new_reward_model(ModelSettings(path=str(tmp_path / "policy")), head_std=1.0)
    end = tokenizer.eos_token_id
    assert model.config.pad_token_id == end
    rows = [[*row, end] for row in ROWS]
    torch.testing.assert_close(score_rows(model, rows, 4), by_hand(model, ROWS), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(score_rows(model, rows, 1), by_hand(model, ROWS), rtol=1e-5, atol=1e-5)


def test_dropout_is_off_and_untied_heads_are_left_behind(tmp_path, caplog, capfd):
    _, tokenizer = load_policy(ModelSettings(path="tiny"))
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, attention_dropout=0.5, tie_word_embeddings=False,
    )  # fmt: skip
    save_model(Qwen2ForCausalLM(config), tokenizer, tmp_path / "policy")
    caplog.clear()
    model, _ = new_reward_model(ModelSettings(path=str(tmp_path / "policy")), head_std=1.0)
    assert model.config.attention_dropout == 0
    assert "MISSING" not in capfd.readouterr().err and not any("no place" in line for line in caplog.messages)
    model.train()
    assert torch.equal(row_scores(model, ROWS), row_scores(model, ROWS))


def test_training_goes_on_from_a_reward_model(tiny, tmp_path):
    model, tokenizer = tiny
    save_model(model, tokenizer, tmp_path / "model")
    again, _ = new_reward_model(ModelSettings(path=str(tmp_path / "model")), head_std=0.0, seed=9)
    assert torch.equal(again.score.weight, model.score.weight)


def test_what_is_no_reward_model_is_refused(tiny, tmp_path):
    model, tokenizer = tiny
    with pytest.raises(ValueError, match="LlamaForCausalLM, which gives no scores; train a reward model"):
        load_reward_model(ModelSettings(path="tiny"))
    config = deepcopy(model.config)
    config.num_labels = 2
    two = AutoModelForSequenceClassification.from_config(config)
    save_model(two, tokenizer, tmp_path / "two")
    with pytest.raises(ValueError, match="gives 2 numbers a reply"):
        load_reward_model(ModelSettings(path=str(tmp_path / "two")))
    with pytest.raises(ValueError, match="gives 2 numbers a reply"):
        new_reward_model(ModelSettings(path=str(tmp_path / "two")))
    headless = tmp_path / "headless"
    save_model(model, tokenizer, headless)
    config = json.loads((headless / "config.json").read_text())
    policy, _ = load_policy(ModelSettings(path="tiny"))
    save_model(policy, tokenizer, headless)
    (headless / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"1 tensors are missing.*score.weight"):
        load_reward_model(ModelSettings(path=str(headless)))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        new_reward_model(ModelSettings(path=str(tmp_path / "nowhere")))


def test_a_model_of_another_maker_has_no_scoring(tiny):
    fresh, _ = new_reward_model(ModelSettings(path="tiny"))
    assert scoring_of(fresh) is None


def test_gradients_reach_head_and_backbone(tiny):
    model, _ = new_reward_model(ModelSettings(path="tiny", activation_checkpointing="full"), head_std=0.5)
    model.train()
    row_scores(model, ROWS).sum().backward()
    assert model.score.weight.grad.abs().sum() > 0
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())
