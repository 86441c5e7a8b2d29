"""Every group and preset composes into settings that are valid, and says what the papers say."""

from __future__ import annotations

from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from r1lit.__main__ import config_directory, config_groups, run_directory
from r1lit.stages.run import read

OmegaConf.register_new_resolver("r1lit.run_dir", run_directory, replace=True)


def compose(*overrides: str):
    with hydra.initialize_config_dir(config_directory(), version_base="1.3"):
        config = OmegaConf.to_container(hydra.compose("config", list(overrides)), resolve=True)
    return read(config, Path("unused"))


def members() -> list[tuple[str, str]]:
    return [(group, member) for group, options in config_groups().items() for member in options]


NEEDY = ("prompts", "demonstrations", "sft", "local", "preference", "harmlessness")
"""Members that leave a path to the user."""


@pytest.mark.parametrize(("group", "member"), members(), ids="=".join)
def test_every_member_of_every_group_composes(group, member, tmp_path):
    (tmp_path / "data.jsonl").write_text("")
    own = {"data": [f"data.path={tmp_path / 'data.jsonl'}"], "model": ["model.path=some/name"]}
    own["experiment"] = own["data"]
    own["reward"] = [f"reward.{member}.model=some/name"]
    extra = own.get(group, []) if member in NEEDY else []
    if member in ("win_rate", "open_ended"):
        extra = ["reward.win_rate.judge.base_url=http://localhost/v1", "reward.win_rate.judge.model=some/name"]
    choice = f"reward=[accuracy,{member}]" if group == "reward" else f"{group}={member}"
    run = compose(choice, *extra)
    assert run.algorithm.objective is not None
    assert GlobalHydra.instance().is_initialized() is False


def test_fine_tuning_is_the_papers(tmp_path):
    """arXiv 2501.12948: a cosine from 5e-5 to 5e-6, batches of 128, 32,768 tokens, two to three epochs."""
    (tmp_path / "data.jsonl").write_text("")
    run = compose("experiment=sft", "model=local", "model.path=some/name", f"data.path={tmp_path / 'data.jsonl'}")
    optimizer, sft = run.optimizer, run.sft
    assert (optimizer.lr, optimizer.schedule, optimizer.min_lr_ratio) == (5e-5, "cosine", 0.1)
    assert (sft.batch_size, sft.max_tokens, sft.epochs, sft.loss_on) == (128, 32768, 2, "responses")
    assert (run.command.stage, run.data.validation, run.evaluates) == ("sft", 0.02, False)


def test_r1_is_the_papers():
    """arXiv 2501.12948 v2: learning rate 3e-6, KL 0.001, epsilon 10, 32 prompts x 16, reference every 400 steps."""
    run = compose("model=local", "model.path=some/name", "algorithm=r1")
    algorithm = run.algorithm
    assert (run.optimizer.lr, algorithm.kl_coef, algorithm.clip_low, algorithm.clip_high) == (3e-6, 0.001, 10, 10)
    assert (algorithm.prompts_per_step, algorithm.group_size, algorithm.reference_refresh) == (32, 16, 400)
    assert (algorithm.advantage_scale, algorithm.kl_estimator, algorithm.ratio_level) == ("group", "k3", "token")
    assert run.rollout.sampling.temperature == 1.0
    assert (run.evaluation.temperature, run.evaluation.top_p) == (0.6, 0.95)
    assert {name: reward.weight for name, reward in run.rewards.items()} == {"accuracy": 1.0, "format": 1.0}


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("dr_grpo", {"advantage_scale": "none", "aggregation": "constant", "kl_coef": 0}),
        (
            "dapo",
            {"clip_low": 0.2, "clip_high": 0.28, "aggregation": "token", "uniform_groups": "resample", "kl_coef": 0},
        ),
        ("gspo", {"ratio_level": "sequence", "clip_low": 3e-4, "clip_high": 4e-4, "aggregation": "sequence"}),
        ("cispo", {"surrogate": "cispo", "clip_high": 5.0, "aggregation": "token"}),
        ("grpo", {"clip_low": 0.2, "clip_high": 0.2, "kl_coef": 0.04, "aggregation": "sequence", "surrogate": "clip"}),
    ],
)
def test_presets_are_their_papers(preset, expected):
    algorithm = compose(f"algorithm={preset}").algorithm
    assert {name: getattr(algorithm, name) for name in expected} == expected


def test_settings_reach_their_sections():
    run = compose("reward=[accuracy,format,overlong]", "reward.overlong.weight=0.5", "rollout.max_tokens=40")
    assert run.rewards["overlong"].weight == 0.5
    assert run.rewards["overlong"].keywords["max_tokens"] == 40
    assert run.evaluation.max_tokens == 40


def test_the_tiny_student_is_held_and_trained_as_tiny_is():
    student, tiny = compose("model=tiny_student"), compose("model=tiny")
    assert (student.model.path, tiny.model.path) == ("tiny-student", "tiny")
    assert student.model.model_copy(update={"path": "tiny"}) == tiny.model
    for section in ("data", "algorithm", "rollout", "optimizer", "evaluation"):
        assert getattr(student, section) == getattr(tiny, section), section


def test_measures_of_talk_weigh_nothing_and_tasks_may_have_a_form_of_their_own():
    run = compose("reward=[accuracy,format,fact,helpful,harmless]", "++reward.format.by_task={general: plain}")
    assert {run.rewards[name].weight for name in ("fact", "helpful", "harmless")} == {0.0}
    assert run.rewards["format"].keywords["by_task"] == {"general": "plain"}
