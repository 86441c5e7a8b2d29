"""What a user types, and what comes back where it is wrong."""

from __future__ import annotations

from r1lit.overrides import prepare

GROUPS = {
    "algorithm": ["dapo", "grpo"],
    "reward": ["accuracy", "format"],
    "model": ["local", "tiny"],
    "data": ["prompts"],
}


def test_settings_are_forced_and_members_are_not():
    typed = ["algorithm=dapo", "algorithm.group_size=8", "reward=[accuracy,format]", "+new.key=1", "~data", "hydra.x=2"]
    typed += ["hydra/sweeper=optuna"]
    assert prepare(typed, GROUPS)[0] == [
        "algorithm=dapo",
        "++algorithm.group_size=8",
        "reward=[accuracy,format]",
        "+new.key=1",
        "~data",
        "hydra.x=2",
        "hydra/sweeper=optuna",
    ]


def test_flags_keep_their_values():
    assert prepare(["--cfg", "job", "seed=1", "-m"], GROUPS)[0] == ["--cfg", "job", "-m", "++seed=1"]


def test_ones_own_model_and_data_select_their_groups():
    assert prepare(["model.path=x", "data.path=y"], GROUPS)[0][:2] == ["model=local", "data=prompts"]
    assert prepare(["model.path=x", "model=tiny"], GROUPS)[0] == ["++model.path=x", "model=tiny"]


def test_everything_wrong_comes_back_at_once():
    arguments, problems = prepare(["algorithm=dappo", "reward=[acuracy,format]", "seed", "reward.x=[1", "a=1"], GROUPS)
    assert arguments == ["++a=1"]
    assert len(problems) == 4
    for expected in ("did you mean dapo?", "did you mean accuracy?", "seed: ", "reward.x=[1: "):
        assert expected in " ".join(problems)


def test_members_of_a_sweep_are_checked_too():
    assert prepare(["-m", "algorithm=grpo,dapo"], GROUPS) == (["-m", "algorithm=grpo,dapo"], [])
    assert "algorithm=gspoo" in prepare(["-m", "algorithm=grpo,gspoo"], GROUPS)[1][0]
