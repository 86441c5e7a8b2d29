from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from r1lit.rewards.targets import bind, plugin_paths
from r1lit.settings import ConfigError

PROGRAM = """
from r1lit.rewards.pool import RewardPool
from r1lit.rewards.spec import RewardSettings
from r1lit.rewards.targets import plugin_paths
from r1lit.types import Group, Prompt
import sys
rewards = {name: RewardSettings.model_validate({"_target_": name}) for name in sys.argv[1:]}
with RewardPool(rewards, plugin_paths=plugin_paths()) as pool:
    (score,) = pool.score([Group(Prompt((1,), "q"), [[1]], ["abc"], [False])])
    print({name: values for name, values in score.values.items()})
"""


def run(directory: Path, *names: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, *names],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        env={key: value for key, value in os.environ.items() if key != "R1LIT_PLUGINS"} | environment,
    )


def write(folder: Path, name: str, value: float) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(f"def {name}(completions): return [{value}] * len(completions)\n")
    return folder


def test_plugins_are_found_from_any_directory(tmp_path: Path):
    write(tmp_path / "work" / "plugins", "local_reward", 1.0)
    write(tmp_path / "work" / "plugins" / "package", "inner", 4.0)
    one, two = write(tmp_path / "one", "named_reward", 2.0), write(tmp_path / "two", "other_reward", 3.0)
    names = (
        "local_reward.local_reward",
        "named_reward.named_reward",
        "other_reward.other_reward",
        "package.inner.inner",
        "r1lit.rewards.format.format",
    )
    done = run(tmp_path / "work", *names, R1LIT_PLUGINS=f"{one}{os.pathsep}{two}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(dict(zip(names, [[1.0], [2.0], [3.0], [4.0], [0.0]], strict=True)))


def test_a_misspelt_plugin_answers_with_what_exists(tmp_path: Path):
    write(tmp_path / "plugins", "local_reward", 1.0)
    done = run(tmp_path, "locl_reward.locl_reward")
    assert done.returncode != 0 and "did you mean local_reward?" in done.stderr
    assert str(tmp_path / "plugins") in done.stderr


def test_a_plugin_cannot_shadow_the_standard_library(tmp_path: Path):
    write(tmp_path / "plugins", "json", 1.0)
    write(tmp_path / "plugins", "fine", 1.0)
    assert run(tmp_path, "fine.fine").returncode == 0


def test_the_folders_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("R1LIT_PLUGINS", raising=False)
    assert plugin_paths(tmp_path) == []
    (tmp_path / "plugins").mkdir()
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("R1LIT_PLUGINS", os.pathsep.join([str(tmp_path / "other"), str(tmp_path / "plugins")]))
    assert plugin_paths(tmp_path) == [tmp_path / "other", tmp_path / "plugins"]
    monkeypatch.setenv("R1LIT_PLUGINS", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="nowhere, which is no folder"):
        plugin_paths(tmp_path)


@pytest.mark.parametrize(
    ("keyword", "remedy"),
    [("wieght", "did you mean weight?"), ("memory", "did you mean memory_mb?"), ("_traget_", "did you mean _target_?"),
     ("lenght", "did you mean length or weight?")],
)
def test_an_unknown_keyword_is_compared_with_settings_and_arguments(keyword: str, remedy: str):
    def reward(completions, length=1): ...

    with pytest.raises(ValueError) as caught:
        bind(reward, {keyword: 1})
    assert repr(keyword) in str(caught.value) and remedy in str(caught.value)
