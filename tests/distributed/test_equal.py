"""Two processes do what one does: the same runs, by torchrun in shards and in replicas, and here alone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from shared_runs import run_cases, share_cases
from transformers import AutoModelForCausalLM

from r1lit.callbacks.recorder import read_metrics

# All runs are made before the first test.
pytestmark = pytest.mark.timeout(900)

# Adam divides by what a gradient was, however small: with its usual epsilon it makes a rounding into a step.
COMMON = ("trainer.accelerator=cpu", "logger=none", "optimizer.eps=1e-4")

# 3 prompts on 2 processes, 5 and 4 rows an update: nothing comes out even, and in the second batch of an evaluation one
# of the processes has nothing to do.
GRPO = (
    *COMMON,
    "algorithm=grpo",
    "algorithm.steps=2",
    "algorithm.prompts_per_step=3",
    "algorithm.group_size=3",
    "algorithm.minibatches=2",
    "algorithm.micro_batch_tokens=60",
    "algorithm.reference_refresh=1",
    "rollout.max_tokens=16",
    # Every length has a reward of its own, so there is something to learn.
    "reward=[accuracy,format,overlong]",
    "reward.overlong.buffer=16",
    "rollout.max_batch_rows=3",
    "evaluation.prompts=3",
    "evaluation.batch_prompts=2",
    "evaluation.k=2",
    "evaluation.every=2",
    "evaluation.max_tokens=12",
    "preflight.prompts=3",
    "completions.every=1",
    "data.limit=200",
)
SFT = (
    *COMMON,
    "experiment=sft",
    "sft.steps=2",
    "sft.batch_size=5",
    "sft.micro_batch_tokens=100",
    "data.validation=0.25",
)
SCORER = (
    *COMMON,
    "experiment=preference_model",
    "reward_model.steps=2",
    "reward_model.batch_size=5",
    "reward_model.micro_batch_rows=2",
    "data.template=none",
    "data.limit=12",
)
# One process has two batches a prompt more to score than the other.
JUDGED = (
    *GRPO,
    "algorithm.steps=1",
    "algorithm.reference_refresh=0",
    "algorithm.micro_batch_tokens=200",
    "evaluation.enabled=false",
    "evaluation.every=0",
    "preflight.enabled=false",
    "reward=[accuracy,format,overlong,preference]",
    "reward.preference.on_reasoning=true",
    "reward.preference.batch_size=2",
)

LORA = ("model.lora.rank=4", "optimizer.lr=1e-2")

# A rollout of weights that are a step old, beside an evaluation; the weights move before the last is drawn.
AHEAD = (
    *GRPO,
    "algorithm.steps=3",
    "rollout.staleness=1",
    "trainer.checkpoint_every=1",
    "trainer.keep_checkpoints=9",
)

SHARED = {
    "grpo": {
        "ddp": ("trainer=ddp",),
        # Activation checkpoints gather each layer once more, and in the host's memory shards stay.
        "whole": ("trainer=fsdp", "trainer.gather_for_sampling=true", "model.activation_checkpointing=full"),
        "in_step": ("trainer=fsdp", "trainer.gather_for_sampling=false", "trainer.cpu_offload=true"),
        "hybrid": ("trainer=fsdp", "trainer.replicas=2"),
    },
    "ahead": {"ddp": ("trainer=ddp",), "resumed": ("trainer=ddp",)},
    "sft": {"ddp": ("trainer=ddp",), "fsdp": ("trainer=fsdp",)},
    "grpo_lora": {
        "ddp": ("trainer=ddp",),
        "whole": ("trainer=fsdp", "trainer.gather_for_sampling=true", "model.activation_checkpointing=full"),
        "in_step": ("trainer=fsdp", "trainer.gather_for_sampling=false", "trainer.cpu_offload=true"),
    },
    "sft_qlora": {"fsdp": ("trainer=fsdp",)},
    "scorer": {"fsdp": ("trainer=fsdp",)},
    "judged": {"sharded": ("trainer=fsdp", "reward.preference.sharded=true")},
    "scorer_lora": {"fsdp": ("trainer=fsdp",)},
}
"""By stage: how two processes do it, by name."""

STEPS = {"ahead": 3, "judged": 1}
"""By stage, where it is not 2."""

OF_TIME = ("time/", "perf/")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder of every run, each stage's ``alone`` beside what it is to equal."""
    folder = tmp_path_factory.mktemp("runs")
    judge = f"reward.preference.model={folder / 'scorer_alone' / 'model'}"
    sft = (*SFT, f"data.path={demonstrations(folder)}")
    stages = {
        "grpo": GRPO,
        "ahead": AHEAD,
        "sft": sft,
        "scorer": SCORER,
        "grpo_lora": (*GRPO, *LORA, "algorithm.kl_coef=0.1"),
        "sft_qlora": (*sft, *LORA, "model.quantization=nf4", "model.lora.merge=false"),
        "judged": (*JUDGED, judge),
        "scorer_lora": (*SCORER, *LORA),
    }
    run_cases(folder, {f"{stage}_alone": common for stage, common in stages.items()})
    cases = {
        f"{stage}_{name}": (*common, *own) for stage, common in stages.items() for name, own in SHARED[stage].items()
    }
    cases["profile"] = (*GRPO, "stage=profile", "trainer=fsdp", "profile.warmup=0", "profile.steps=1")
    cases["ahead_resumed"] += (f"resume={stopped(folder / 'ahead_alone', folder / 'ahead_resumed')}",)
    share_cases(folder, cases)
    return folder


def demonstrations(folder: Path) -> Path:
    path = folder / "demonstrations.jsonl"
    rows = ({"prompt": f"What is {n}+1?", "response": f"It is {n + 1}{'.' * n}"} for n in range(13))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def stopped(run: Path, copy: Path) -> Path:
    """A copy of a run as it was after its first step, while the rollout of its second was waiting."""
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "model")
    for step in (2, 3):
        (copy / "checkpoints" / f"step_{step:06d}.ckpt").unlink()
    return copy


def pairs(*stages: str) -> Iterator[pytest.param]:
    for stage in stages or SHARED:
        yield from (pytest.param(stage, name, id=f"{stage}-{name}") for name in SHARED[stage])


def metrics(run: Path) -> list[dict]:
    return [
        {name: value for name, value in row.items() if not name.startswith(OF_TIME)}
        for row in read_metrics(run / "metrics.jsonl")
    ]


@pytest.mark.parametrize(("stage", "name"), pairs())
def test_losses_metrics_and_weights_are_those_of_one_process(runs, stage, name):
    alone, shared = runs / f"{stage}_alone", runs / f"{stage}_{name}"
    assert len(metrics(alone)) == STEPS.get(stage, 2)
    for expected, found in zip(metrics(alone), metrics(shared), strict=True):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)
    (exported,) = [path.name for path in (alone / "model").glob("*model.safetensors")]
    expected, found = (load_file(run / "model" / exported) for run in (alone, shared))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert {path.name for path in shared.iterdir()} == {path.name for path in alone.iterdir()}
    (config,) = {"adapter_config.json", "config.json"} & {path.name for path in (alone / "model").iterdir()}
    expected, found = (json.loads((run / "model" / config).read_text()) for run in (alone, shared))
    # How a reward model's scores are spread, measured after training.
    for config in (expected, found):
        config.get("r1lit", {}).update(mean=None, std=None)
    assert found == expected


@pytest.mark.parametrize(("stage", "name"), [*pairs("grpo", "grpo_lora"), ("ahead", "ddp")])
def test_completions_advantages_and_evaluations_are_those_of_one_process(runs, stage, name):
    alone, shared = runs / f"{stage}_alone", runs / f"{stage}_{name}"
    for step in range(len(metrics(alone))):
        expected, found = (pq.read_table(run / "completions" / f"step_{step:06d}.parquet") for run in (alone, shared))
        assert found.drop_columns("advantage") == expected.drop_columns("advantage")
        assert found["advantage"].to_pylist() == pytest.approx(expected["advantage"].to_pylist(), abs=1e-5)
    expected, found = (json.loads((run / "summary.json").read_text()) for run in (alone, shared))
    assert any(pq.read_table(alone / "completions" / "step_000000.parquet")["advantage"].to_pylist())
    for figures in ("preflight", "before", "after", "tokens", "flops", "marks", "status"):
        if figures != "preflight":
            assert found[figures] == expected[figures], figures
    assert {name: found["preflight"][name] for name in ("pass_1", "mean_reward")} == {
        name: expected["preflight"][name] for name in ("pass_1", "mean_reward")
    }


def test_rollouts_that_wait_for_their_step_are_saved_as_one_process_saves_them(runs):
    assert [row["rollout/staleness"] for row in metrics(runs / "ahead_ddp")] == [0, 1, 1]
    for step in (1, 2):
        states = [runs / f"ahead_{name}" / "checkpoints" / f"step_{step:06d}.ckpt" for name in ("alone", "ddp")]
        expected, found = (torch.load(state, weights_only=True)["ahead"] for state in states)
        assert [(kept["step"], kept["version"]) for kept in found] == [(step, step - 1)]
        for name, value in expected[0]["rollout"].items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(found[0]["rollout"][name], value, rtol=1e-5, atol=1e-5)
            else:
                assert found[0]["rollout"][name] == value, name


def test_the_model_of_shards_is_a_plain_one(runs):
    model = AutoModelForCausalLM.from_pretrained(runs / "grpo_whole" / "model")
    assert type(model).__name__ == model.config.architectures[0] and os.listdir(runs / "grpo_whole" / "checkpoints")


def test_a_profile_of_several_processes_says_what_they_waited_for(runs):
    text, summary = (
        (runs / "profile" / "profile.md").read_text(),
        json.loads((runs / "profile" / "summary.json").read_text()),
    )
    assert "2 processes trained (trainer=fsdp). What follows was seen by rank 0" in text
    assert "collectives, waiting for the other processes included" in text and "| its rank |" in text
    # Both have timed the same phases, and each collective has its time within them.
    first, second = summary["seconds_a_step_by_rank"]
    assert {"sample", "score", "update"} <= first.keys() - {"step"} == second.keys()
    trace = summary["trace"]
    exchanged = {phase: kinds.get("collectives", 0.0) for phase, kinds in trace["work"].items()}
    assert trace["collectives"] > 10 and exchanged["update"] > 0
    assert all(seconds <= trace["by_phase"][phase] + 1e-3 for phase, seconds in exchanged.items())
    assert not [name for name in trace["operators"] if "c10d" in name or name.startswith(("gloo:", "FSDP::"))]
