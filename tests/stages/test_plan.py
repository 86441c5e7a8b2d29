from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from r1lit.__main__ import composed
from r1lit.settings import ConfigError
from r1lit.stages.plan import Step, plan
from r1lit.stages.run import read

CHAIN = {
    "base": {"title": "base", "set": {"stage": "evaluate"}},
    "zero": {"title": "zero", "use": {"experiment": "r1_zero"}, "set": {"algorithm": {"steps": 3}}},
    "next": {"title": "next", "set": {"model": {"path": "{steps.zero}/model"}, "algorithm": {"clip_high": 0.3}}},
}


def planned(tmp_path: Path, steps: dict, **pipeline) -> list[Step]:
    GlobalHydra.instance().clear()
    config, _ = composed(["stage=pipeline", "name=chain", "seed=5"])
    config["pipeline"] = {"steps": steps, **pipeline}
    return plan(read(config, tmp_path), composed)


def mistakes(tmp_path: Path, steps: dict, **pipeline) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        planned(tmp_path, steps, **pipeline)
    return caught.value.problems


def test_each_step_is_a_command_of_its_own(tmp_path):
    base, zero, after = planned(tmp_path, CHAIN, common={"use": {"reward": ["accuracy"]}, "set": {"workers": 2}})
    assert (base.kind, zero.kind, after.kind) == ("evaluate", "fit", "fit")
    assert zero.overrides == (
        "reward=[accuracy]", "experiment=r1_zero", "name=zero", "seed=5", "workers=2", "algorithm.steps=3",
    )  # fmt: skip
    assert zero.config["algorithm"]["steps"] == 3 and list(zero.config["reward"]) == ["accuracy"]
    assert zero.directory == tmp_path / "zero" and zero.makes == tmp_path / "zero" / "model"
    assert (base.makes.name, base.inputs) == ("samples.jsonl", ())
    assert after.inputs == ("zero",)
    assert f"model.path={tmp_path / 'zero'}/model" in after.overrides
    assert after.config["model"]["path"] == f"{tmp_path / 'zero'}/model", "though it is not there yet"


def test_a_chain_of_several_seeds_runs_once_for_each(tmp_path):
    steps = planned(tmp_path, CHAIN, seeds=[3, 4])
    assert [(step.seed, step.name) for step in steps] == [
        (seed, name) for seed in (3, 4) for name in ("base", "zero", "next")
    ]
    assert {step.directory.parent for step in steps} == {tmp_path / "seed_3", tmp_path / "seed_4"}
    assert steps[5].config["seed"] == 4 and str(tmp_path / "seed_4" / "zero") in steps[5].config["model"]["path"]


def test_a_fingerprint_is_of_what_a_step_computes_and_of_its_inputs(tmp_path):
    first = planned(tmp_path / "one", CHAIN)
    elsewhere = planned(tmp_path / "two", CHAIN, common={"set": {"logger": {"kind": "none"}}})
    assert [step.fingerprint for step in first] == [step.fingerprint for step in elsewhere]
    longer = {**CHAIN, "zero": {**CHAIN["zero"], "set": {"algorithm": {"steps": 4}}}}
    changed = planned(tmp_path / "one", longer)
    same = [old.fingerprint == new.fingerprint for old, new in zip(first, changed, strict=True)]
    assert same == [True, False, False], "what comes after a changed step is changed too"


def test_the_mistakes_of_all_steps_come_at_once_before_anything_runs(tmp_path):
    found = mistakes(
        tmp_path,
        {
            "one": {"title": "one", "set": {"algorithm": {"stepps": 3}}},
            "two": {"use": {"experiment": "r1_zeroo"}, "set": {"optimizer": {"lr": -1}}},
            "three": {"title": "three", "set": {"model": {"path": "{steps.won}/model"}}},
            "four": {"set": {"stage": "preflight"}},
        },
        seeds=[0, 1],
    )
    assert len(found) == 5, found
    for problem, part in zip(
        found,
        (
            "pipeline.steps.one: algorithm.stepps is no setting; did you mean steps",
            "pipeline.steps.two: experiment=r1_zeroo: there is no such member of experiment; did you mean r1_zero",
            "pipeline.steps.two: optimizer.lr=-1",
            "pipeline.steps.three: {steps.won} is no earlier step of the chain",
            "pipeline.steps.four: stage=preflight makes nothing that a chain could use",
        ),
        strict=True,
    ):
        assert part in problem


def test_a_typo_behind_an_input_is_found_and_what_will_be_there_is_not_missed(tmp_path):
    steps = {**CHAIN, "next": {"title": "next", "set": {"model": {"path": "{steps.zero}/modle"}}}}
    (found,) = mistakes(tmp_path, steps)
    assert "pipeline.steps.next: model.path=" in found and "modle" in found


@pytest.mark.parametrize("name", ["..", "a/b", "a,b", "seed_0", "", "é", "manifest.json"])
def test_a_steps_name_is_that_of_its_folder(tmp_path, name):
    with pytest.raises(ConfigError, match="a step's name is that of its folder"):
        planned(tmp_path, {name: {"title": "odd"}})


def test_a_misspelt_step_is_no_new_one(tmp_path):
    with pytest.raises(ConfigError, match=r"no use and no set\.stage, so it is no step; did you mean zero"):
        planned(tmp_path, {**CHAIN, "zeroo": {"set": {"algorithm": {"steps": 5}}}})


@pytest.mark.parametrize("place", ["a b", "k=v,w", "été", "x{y}", "it's"])
def test_odd_places_reach_the_step(tmp_path, place):
    after = planned(tmp_path / place, CHAIN)[2]
    assert after.config["model"]["path"] == str(tmp_path / place / "zero" / "model")


def test_values_reach_the_step_as_they_were(tmp_path):
    template, tasks = 'Q: {prompt}, "please"! \\boxed{}\nA: \\', ["a b", "c", "1", "true", ""]
    odd = {"stage": "evaluate", "data": {"template": template}, "reward": {"accuracy": {"when": {"task": tasks}}}}
    (step,) = planned(tmp_path, {"odd": {"set": odd}})
    assert step.config["data"]["template"] == template
    assert step.config["reward"]["accuracy"]["when"] == {"task": tasks}


def test_a_chain_without_steps_says_where_to_find_one(tmp_path):
    assert "experiment=r1" in mistakes(tmp_path, {})[0]
