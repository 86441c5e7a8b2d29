"""Two processes do what one does: the same runs, by torchrun in shards and in replicas, and here alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from shared_runs import run_cases, share_cases
from transformers import AutoModelForCausalLM

from r1lit.callbacks.recorder import read_metrics

# Every run of the module is made for its first test.
pytestmark = pytest.mark.timeout(600)

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

LORA = ("model.lora.rank=4", "optimizer.lr=1e-2")

SHARED = {
    "grpo": {
        "ddp": ("trainer=ddp",),
        # Activation checkpoints gather each layer once more, and in the host's memory shards stay.
        "whole": ("trainer=fsdp", "trainer.gather_for_sampling=true", "model.activation_checkpointing=full"),
        "in_step": ("trainer=fsdp", "trainer.gather_for_sampling=false", "trainer.cpu_offload=true"),
        "hybrid": ("trainer=fsdp", "trainer.replicas=2"),
    },
    "sft": {"ddp": ("trainer=ddp",), "fsdp": ("trainer=fsdp",)},
    "grpo_lora": {
        "ddp": ("trainer=ddp",),
        "whole": ("trainer=fsdp", "trainer.gather_for_sampling=true", "model.activation_checkpointing=full"),
        "in_step": ("trainer=fsdp", "trainer.gather_for_sampling=false", "trainer.cpu_offload=true"),
    },
    "sft_qlora": {"fsdp": ("trainer=fsdp",)},
    "scorer": {"fsdp": ("trainer=fsdp",)},
    "scorer_lora": {"fsdp": ("trainer=fsdp",)},
}
"""By stage: how two processes do it, by name."""

OF_TIME = ("time/", "perf/")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder of every run, each stage's ``alone`` beside what it is to equal."""
    folder = tmp_path_factory.mktemp("runs")
    sft = (*SFT, f"data.path={demonstrations(folder)}")
    stages = {
        "grpo": GRPO,
        "sft": sft,
        "scorer": SCORER,
        "grpo_lora": (*GRPO, *LORA, "algorithm.kl_coef=0.1"),
        "sft_qlora": (*sft, *LORA, "model.quantization=nf4"),
        "scorer_lora": (*SCORER, *LORA),
    }
    run_cases(folder, {f"{stage}_alone": common for stage, common in stages.items()})
    cases = {
        f"{stage}_{name}": (*common, *own) for stage, common in stages.items() for name, own in SHARED[stage].items()
    }
    share_cases(folder, cases)
    return folder


def demonstrations(folder: Path) -> Path:
    path = folder / "demonstrations.jsonl"
    rows = ({"prompt": f"What is {n}+1?", "response": f"It is {n + 1}{'.' * n}"} for n in range(13))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


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
    assert len(metrics(alone)) == 2
    for expected, found in zip(metrics(alone), metrics(shared), strict=True):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)
    expected, found = (load_file(run / "model" / "model.safetensors") for run in (alone, shared))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert {path.name for path in shared.iterdir()} == {path.name for path in alone.iterdir()}
    expected, found = (json.loads((run / "model" / "config.json").read_text()) for run in (alone, shared))
    # How a reward model's scores are spread, measured after training.
    for config in (expected, found):
        config.get("r1lit", {}).update(mean=None, std=None)
    assert found == expected


@pytest.mark.parametrize(("stage", "name"), pairs("grpo", "grpo_lora"))
def test_completions_advantages_and_evaluations_are_those_of_one_process(runs, stage, name):
    alone, shared = runs / f"{stage}_alone", runs / f"{stage}_{name}"
    for step in range(2):
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


def test_the_model_of_shards_is_a_plain_one(runs):
    model = AutoModelForCausalLM.from_pretrained(runs / "grpo_whole" / "model")
    assert type(model).__name__ == model.config.architectures[0] and os.listdir(runs / "grpo_whole" / "checkpoints")
