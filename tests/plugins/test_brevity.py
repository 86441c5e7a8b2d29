from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from r1lit.rewards.cases import try_cases
from r1lit.rewards.pool import RewardPool
from r1lit.rewards.spec import RewardSettings

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "plugins"
BASE = """
defaults:
  - reward: [accuracy, format]
  - _self_
hydra:
  searchpath: []
"""


@pytest.fixture
def conf(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "config.yaml").write_text(BASE)
    (tmp_path / "reward").symlink_to(ROOT / "conf" / "reward")
    GlobalHydra.instance().clear()
    yield tmp_path
    GlobalHydra.instance().clear()


def rewards_of(conf: Path, *overrides: str) -> dict[str, RewardSettings]:
    with initialize_config_dir(str(conf), version_base="1.3"):
        composed = compose("config", [f"hydra.searchpath=[file://{PLUGINS / 'conf'}]", *overrides])
    return {
        name: RewardSettings.model_validate(value)
        for name, value in OmegaConf.to_container(composed.reward, resolve=True).items()
    }


def test_rewards_take_part_in_one_list(conf: Path):
    rewards = rewards_of(
        conf,
        "reward=[accuracy,format,brevity]",
        "reward.brevity.weight=0.3",
        "+reward.brevity.timeout=5",
        "reward.accuracy.when={task: [math, code]}",
    )
    assert list(rewards) == ["accuracy", "format", "brevity"]
    assert rewards["brevity"].weight == 0.3 and rewards["brevity"].timeout == 5
    assert rewards["brevity"].keywords == {"target": 20, "limit": 60}
    assert rewards["accuracy"].applies({"task": "math"}) and not rewards["accuracy"].applies({"task": "chat"})
    assert list(rewards_of(conf)) == ["accuracy", "format"]


def test_the_worked_example_passes_its_cases(conf: Path):
    cases = [json.loads(line) for line in (PLUGINS / "brevity_cases.jsonl").read_text().splitlines()]
    with RewardPool(rewards_of(conf, "reward=[brevity]"), plugin_paths=[PLUGINS]) as pool:
        results = try_cases(pool, cases)
    assert [result.passed for result in results] == [True] * 4


def test_the_shipped_rewards_load_and_judge(conf: Path):
    good = {"prompt": "What is 2 + 2?", "completion": "<think> a </think> <answer> 4 </answer>", "answer": "4"}
    cases = [
        good | {"expected": {"accuracy": 1.0, "format": 1.0}},
        good | {"completion": "4", "expected": {"accuracy": 1.0, "format": 0.0}},
    ]
    with RewardPool(rewards_of(conf)) as pool:
        assert [result.passed for result in try_cases(pool, cases)] == [True, True]
