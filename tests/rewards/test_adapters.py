from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from r1lit.rewards.pool import RewardPool
from r1lit.rewards.spec import RewardSettings
from r1lit.types import Group, Prompt, Rollout, Sampling

VERL = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None, bonus=0.0):
    if ground_truth == "broken":
        raise ValueError("broken row")
    score = float(ground_truth in solution_str) + bonus
    return {"score": score, "acc": True} if extra_info and extra_info["as_dict"] else score

def which_source(data_source, solution_str, ground_truth, extra_info):
    return float(len(data_source))
"""

COMPLETIONS = [
    r"<think> a </think> It is $\boxed{\frac{1}{3}}$.",
    r"<think> a </think> It is $\boxed{\frac{1}{2}}$.",
    r"<think> \boxed{\frac{1}{3}}",
    r"plain $\boxed{\frac{1}{3}}$",
]
IDS = [[1, 2, 3] * 30, [7] * 100, [1, 1, 1, 1], [1, 2, 3, 4]]


def rollout(columns: dict, completions: list[str] = COMPLETIONS) -> Rollout:
    group = Group(Prompt((1,), "What is 1 over 3?", columns), IDS, completions, [False] * 4)
    zeros = torch.zeros(4, 2)
    return Rollout((group,), zeros.long(), zeros.bool(), zeros, Sampling())


TRL = {
    "accuracy_reward": {},
    "reasoning_accuracy_reward": {"reasoning_delimiters": ["</think>"]},
    "think_format_reward": {},
    "get_cosine_scaled_reward": {"max_len": 100},
    "get_repetition_penalty_reward": {"ngram_size": 2},
    "get_soft_overlong_punishment": {"max_completion_len": 100, "soft_punish_cache": 20},
}


def test_trl_s_own_rewards_run_unchanged():
    specs = {
        name: RewardSettings.model_validate(
            {"_target_": f"trl.rewards.{name}", "messages": True, "factory": name.startswith("get_"), "timeout": 60}
            | keywords
        )
        for name, keywords in TRL.items()
    }
    columns = {"solution": r"$\frac{1}{3}$", "difficulty": 3}
    with RewardPool(specs) as pool:
        scored = pool(rollout(columns))
    assert not scored.failures
    messages = [[{"role": "assistant", "content": text}] for text in COMPLETIONS]
    for name, keywords in TRL.items():
        reward = getattr(importlib.import_module("trl.rewards"), name)
        if name.startswith("get_"):
            reward, keywords = reward(**keywords), {}
        expected = reward(completions=messages, completion_ids=IDS, solution=[columns["solution"]] * 4, **keywords)
        assert torch.allclose(scored.column(name), torch.tensor(expected)), name
        assert len(set(expected)) > 1, f"{name} cannot tell the cases apart"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "verl_score.py").write_text(VERL)
    return tmp_path


@pytest.mark.parametrize(
    "columns",
    [
        {"answer": "3"},
        {"ground_truth": "3", "answer": "9"},
        {"reward_model": {"ground_truth": "3"}, "answer": "9"},
        {"answer": "3", "extra_info": {"as_dict": True}},
    ],
)
def test_verl_s_compute_score(folder: Path, columns: dict):
    base = {"_target_": "r1lit.rewards.adapters.Verl", "data_source": "gsm8k"}
    specs = {
        "score": base | {"function": "verl_score.compute_score", "bonus": 0.5, "rowwise": True},
        "source": base | {"function": "verl_score.which_source"},
    }
    specs = {name: RewardSettings.model_validate(spec) for name, spec in specs.items()}
    with RewardPool(specs, plugin_paths=[folder]) as pool:
        scored = pool(rollout(columns, ["3", "4", "33", ""]))
        assert scored.column("score").tolist() == [1.5, 0.5, 1.5, 0.5]
        assert scored.column("source").tolist() == [5.0] * 4
        assert pool(rollout(columns | {"data_source": "aime"})).column("source").tolist() == [4.0] * 4


def test_a_broken_verl_row_is_a_failure(folder: Path):
    spec = {"_target_": "r1lit.rewards.adapters.Verl", "function": "verl_score.compute_score", "max_failures": 1}
    with RewardPool({"v": RewardSettings.model_validate(spec)}, plugin_paths=[folder]) as pool:
        assert pool(rollout({"answer": "broken"})).failures == {"v": {"exception": 4}}
        assert pool(rollout({})).failures == {"v": {"exception": 4}}
