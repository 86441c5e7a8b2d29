from __future__ import annotations

import copy
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from r1lit.__main__ import config_directory
from r1lit.settings import ConfigError
from r1lit.stages.run import read


@pytest.fixture(scope="module")
def composed() -> dict:
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_directory(), version_base="1.3"):
        return OmegaConf.to_container(compose("config"), resolve=True)


def changed(composed: dict, changes: dict) -> dict:
    """The default configuration with ``{"section.key": value}`` set."""
    config = copy.deepcopy(composed)
    for path, value in changes.items():
        *sections, key = path.split(".")
        place = config
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    return config


def problems(composed: dict, changes: dict) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(changed(composed, changes), Path("unused"))
    return caught.value.problems


def test_the_default_configuration_is_sound(composed):
    run = read(composed, Path("somewhere"))
    assert run.directory == Path("somewhere") and run.command.stage == "fit"
    assert list(run.rewards) == ["accuracy", "format"]
    assert run.evaluation.max_tokens == run.rollout.max_tokens


def test_all_mistakes_come_at_once(composed):
    found = problems(
        composed,
        {
            "algorithm.group_size": 1,
            "optimizer.lr": -1,
            "trainer.acelerator": "cpu",
            "sead": 3,
            "stage": "fitt",
            "model.path": "???",
            "reward.format.weight": float("nan"),
            "reward.brevity": {"weight": 1},
            "evaluation.metric": "acuracy",
        },
    )
    text = "\n".join(found)
    for part in (
        "algorithm.group_size",
        "set algorithm.group_size >= 2",
        "optimizer.lr=-1: input should be greater than 0",
        "trainer.acelerator is no setting; did you mean accelerator?",
        "sead is no setting; did you mean seed",
        "stage='fitt': input should be 'fit', 'sft', 'reward_model', 'collect', 'reject', 'pipeline', 'evaluate', "
            "'preflight', 'profile', 'try_reward' or 'export'",
        "model.path is not set; add model.path=...",
        "reward.format.weight=nan",
        "reward.brevity is set, but brevity is not among the chosen rewards (accuracy, format); "
        "use one of these names, or choose it too: reward=[accuracy,format,brevity]",
        "evaluation.metric=acuracy, but the rewards are",
    ):
        assert part in text
    assert len(found) == 9, text
    assert "command." not in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"reward": {}}, "no reward is chosen; set for instance 'reward=[accuracy,format]'"),
        ({"reward.accuracy.weight": 0, "reward.format.weight": 0}, "set reward.<name>.weight above 0"),
        ({"reward.accuracy": 5}, "set one of its keys: reward.accuracy.weight=5"),
        ({"reward.accuracy._target_": "accuracy"}, "write module.function"),
        ({"data.path": None, "data.sources": {}}, "set data.path=FILE.jsonl or choose data=tiny"),
        ({"data.validation": 0}, "or evaluation.sources, or evaluation.enabled=false evaluation.every=0"),
        ({"stage": "evaluate", "data.validation": 0}, "set it above 0, or set data.validation_path"),
        ({"stage": "evaluate", "resume": "runs/x"}, "drop resume, and set model.path=runs/x/model"),
        ({"stage": "try_reward"}, "stage=try_reward judges written cases; set data.path=CASES.jsonl"),
        ({"algorithm": 5}, "algorithm=5: input should be a valid dictionary"),
        ({"data.path": "???"}, "data.path is not set; add data.path=..."),
        ({"evaluation.top_p": 0}, "evaluation.top_p=0: input should be greater than 0"),
        ({"rollout.temperature": 0}, "rollout.temperature=0: input should be greater than 0"),
        ({"trainer.accelerator": "cpu", "model.attention": "varlen"}, "CUDA alone; set model.attention=auto"),
        (
            {"rollout.kind": "vllm_server", "rollout.decode": "static"},
            "decode=static is of the sampler in this process, but rollout.kind=vllm_server decodes by vLLM; drop "
            "rollout.decode, or set rollout=transformers",
        ),
        (
            {"trainer.strategy": "fsdp", "trainer.accelerator": "cpu", "rollout.decode": "static"},
            "rollout.decode=static, but its steps read weights where they stand, and trainer=fsdp gathers them anew; "
            "set rollout.decode=eager, or trainer=ddp",
        ),
        ({"algorithm.micro_batch_rows": 8}, "micro_batch_rows is no setting; did you mean micro_batch_tokens"),
        (
            {"trainer.strategy": "fsdp", "rollout.staleness": 1},
            "gathered to sample and to learn, in turn; set rollout=vllm_server, rollout=vllm, trainer=ddp",
        ),
        (
            {"rollout.kind": "vllm_server", "rollout.top_p": 0.9},
            "rollout.top_p=0.9 with algorithm.sampling_correction=auto: what top-p cuts off is in every token's ratio, "
            "and their product fades with the length; set rollout.top_p=1, or "
            "algorithm.sampling_correction=token_truncate",
        ),
    ],
)
def test_each_mistake_names_its_key_and_its_remedy(composed, changes, expected):
    (found,) = problems(composed, changes)
    assert expected in found


TESTED = {"generator": "arithmetic", "params": {"split": "test"}}
FACTS = {"generator": "talk", "params": {"kinds": ["fact"]}}
CHAIN_SUM = {"reasoning_gym": "chain_sum", "split_by": "expression"}


@pytest.mark.parametrize("stage", ["fit", "sft", "reward_model", "collect", "reject"])
def test_a_generators_test_split_is_not_learnt_in_other_wordings(composed, stage):
    changes = {"stage": stage, "data.validation": 0.05, "evaluation.sources": {"sums": TESTED}}
    arithmetic, chain_sum = problems(composed, changes)
    assert arithmetic == (
        "data.validation=0.05, but evaluation.sources.sums measures the share of 0.1 of these problems that split=test "
        "is, and data.sources.arithmetic would teach them in other wordings; set data.validation=0.1, or "
        "data.sources.arithmetic.params.split=train"
    )
    assert "data.sources.chain_sum would" in chain_sum and chain_sum.endswith("; set data.validation=0.1")
    off = changes | {"evaluation.enabled": False, "evaluation.every": 0}
    assert problems(composed, off) == [arithmetic, chain_sum]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"data.sources": {"own": CHAIN_SUM | {"split_by": "prompt"}}}, "data.sources.own.split_by=expression"),
        (
            {"data.sources": {"own": FACTS}, "evaluation.sources": {"facts": FACTS | TESTED | {"generator": "talk"}}},
            "set data.validation=0.1 and data.sources.own.split_by=key, or data.sources.own.params.split=train",
        ),
        ({"data.sources": {"own": TESTED | {"params": {"split": "all"}}}}, "data.sources.own.params.split=train"),
    ],
)
def test_the_remedy_is_the_sources(composed, changes, named):
    common = {"data.validation": 0.0, "evaluation.sources": {"sums": TESTED}}
    (found,) = problems(composed, common | changes)
    assert named in found


@pytest.mark.parametrize(
    "changes",
    [
        {"data.validation": 0.1},
        {"stage": "evaluate"},
        {"stage": "preflight"},
        {"data.sources": {"own": TESTED | {"params": {"split": "train"}}}},
        {"data.sources": {"own": FACTS}},
        {"data.sources": {"own": {"reasoning_gym": "leg_counting"}}},
        {"evaluation.sources": {"sums": {"generator": "arithmetic", "params": {"split": "all"}}}},
    ],
)
def test_where_nothing_of_a_test_split_is_learnt_a_smaller_share_will_do(composed, changes):
    common = {"data.validation": 0.05, "evaluation.sources": {"sums": TESTED}}
    assert read(changed(composed, common | changes), Path()).data.validation in (0.05, 0.1)


def test_what_a_stage_does_not_use_is_no_mistake(composed):
    weightless = {"reward.accuracy.weight": 0, "reward.format.weight": 0, "data.validation": 0}
    cases = {"stage": "try_reward", "data.path": str(Path(__file__)), "evaluation.metric": "other"}
    assert problems(composed, weightless | cases) == [
        f"data.path: {__file__} ends in .py; it must be .jsonl, .json, .ndjson, .parquet"
    ]
    off = {"data.validation": 0, "evaluation.enabled": False}
    assert read(changed(composed, off), Path()).data.validation == 0


def test_training_that_this_arithmetic_or_machine_cannot_do_is_refused(composed, monkeypatch):
    (problem,) = problems(composed, {"trainer.precision": "bf16-true"})
    assert problem.startswith("trainer.precision=bf16-true with optimizer.kind=adamw: an update of less than about")
    read(changed(composed, {"trainer.precision": "bf16-true", "optimizer.kind": "adamw_8bit"}), Path("unused"))
    read(changed(composed, {"trainer.precision": "bf16-true", "stage": "evaluate"}), Path("unused"))
    monkeypatch.setattr("r1lit.modules.settings.torchao_missing", lambda: True)
    (problem,) = problems(composed, {"optimizer.kind": "adamw_8bit"})
    assert "install r1lit[torchao]" in problem
    monkeypatch.setattr("r1lit.stages.machine.compiler_problem", lambda device: f"no compiler for {device}")
    assert problems(composed, {"model.compile": True, "trainer.accelerator": "cpu"}) == ["no compiler for cpu"]
