"""What a user types, and what comes back where it is wrong."""

from __future__ import annotations

import pytest

from r1lit.overrides import prepare
from r1lit.settings import ConfigError

GROUPS = {
    "algorithm": ["dapo", "grpo"],
    "reward": ["accuracy", "format"],
    "model": ["local", "tiny"],
    "data": ["prompts"],
}


def test_settings_are_forced_and_members_are_not():
    typed = ["algorithm=dapo", "algorithm.group_size=8", "reward=[accuracy,format]", "+new.key=1", "~data", "hydra.x=2"]
    assert prepare(typed, GROUPS) == [
        "algorithm=dapo",
        "++algorithm.group_size=8",
        "reward=[accuracy,format]",
        "+new.key=1",
        "~data",
        "hydra.x=2",
    ]


def test_flags_keep_their_values():
    assert prepare(["--cfg", "job", "seed=1", "-m"], GROUPS) == ["--cfg", "job", "-m", "++seed=1"]


def test_ones_own_model_and_data_select_their_groups():
    assert prepare(["model.path=x", "data.path=y"], GROUPS)[:2] == ["model=local", "data=prompts"]
    assert prepare(["model.path=x", "model=tiny"], GROUPS) == ["++model.path=x", "model=tiny"]


def test_everything_wrong_comes_back_at_once():
    with pytest.raises(ConfigError) as caught:
        prepare(["algorithm=dappo", "reward=[acuracy,format]", "seed", "reward.x=[1"], GROUPS)
    assert len(caught.value.problems) == 4
    text = str(caught.value)
    for expected in ("did you mean dapo?", "did you mean accuracy?", "seed: ", "reward.x=[1: "):
        assert expected in text


def test_members_of_a_sweep_are_checked_too():
    assert prepare(["-m", "algorithm=grpo,dapo"], GROUPS) == ["-m", "algorithm=grpo,dapo"]
    with pytest.raises(ConfigError, match="algorithm=gspoo"):
        prepare(["-m", "algorithm=grpo,gspoo"], GROUPS)
