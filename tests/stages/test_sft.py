"""Fine-tuning through the command, killed and resumed, and the stage in this process."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from made_tokenizers import CHATML
from omegaconf import OmegaConf
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from r1lit.__main__ import config_directory
from r1lit.callbacks.recorder import read_metrics
from r1lit.data.files import DataError
from r1lit.models.loading import ModelSettings, load_policy, save_model, stop_ids
from r1lit.settings import ConfigError
from r1lit.stages.dispatch import run_stage
from r1lit.stages.export import export
from r1lit.stages.run import Run, read
from r1lit.stages.sft import sft
from r1lit.stages.summary import Summary

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SUMS = [(a, b) for a in range(10) for b in range(10 - a)]


def rows() -> list[dict]:
    """Single-digit sums, told as the embedded model tells longer ones."""
    return [
        {
            "prompt": f"What is {a}+{b}?",
            "response": f"<think> {WORDS[a]} plus {WORDS[b]} is {WORDS[a + b]} </think> <answer> {a + b} </answer>",
            "answer": str(a + b),
        }
        for a, b in SUMS
    ]


def write(path: Path, items: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in items))
    return path


def run_of(folder: Path, *overrides: str) -> Run:
    folder.mkdir(exist_ok=True)
    GlobalHydra.instance().clear()
    short = ("logger=none", "sft.batch_size=8", "sft.steps=6", "data.validation=0.1", "optimizer.lr=1e-3")
    with initialize_config_dir(config_directory(), version_base="1.3"):
        config = compose("config", ["experiment=sft", *short, *overrides])
    return read(OmegaConf.to_container(config, resolve=True), folder)


def trained(folder: Path, *overrides: str) -> str:
    """What training shows in the terminal."""
    out = Console(file=io.StringIO(), width=120)
    sft(run_of(folder, *overrides), Summary(folder, out))
    return out.file.getvalue()


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def started(folder: Path, *overrides: str) -> subprocess.Popen:
    """The command, in a process that can be killed with all that it starts."""
    return subprocess.Popen(
        [sys.executable, "-m", "r1lit", *overrides],
        cwd=folder,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


def await_that(process: subprocess.Popen, holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)


def test_the_command_trains_and_a_killed_run_resumes_to_the_same_bits(r1lit, tmp_path):
    write(tmp_path / "demos.jsonl", rows())
    quick = (
        "experiment=sft",
        f"data.path={tmp_path / 'demos.jsonl'}",
        "sft.steps=60",
        "sft.batch_size=8",
        "data.validation=0.1",
        "trainer.checkpoint_every=10",
    )
    (tmp_path / "alone").mkdir()
    done = r1lit(*quick, cwd=tmp_path / "alone")
    (alone,) = (tmp_path / "alone" / "runs" / "sft").iterdir()
    assert "demonstrations: " in done.stderr and "after training: held-out loss" in done.stderr

    (tmp_path / "killed").mkdir()
    process = started(tmp_path / "killed", *quick)
    await_that(process, lambda: list((tmp_path / "killed").rglob("step_000010.ckpt")))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (killed,) = (tmp_path / "killed" / "runs" / "sft").iterdir()
    assert not (killed / "model").exists()
    before = summary_of(killed)["held_out"]["before"]
    r1lit(f"resume={killed}", cwd=tmp_path / "killed")
    assert same(weights(alone), weights(killed))
    steps = [read_metrics(run / "metrics.jsonl") for run in (alone, killed)]
    assert [[row["loss"] for row in run] for run in steps] == [[row["loss"] for row in steps[0]]] * 2
    assert [row["step"] for row in steps[1]] == list(range(60))
    # The rate ends at a tenth of where it began, by the experiment's cosine.
    assert steps[0][-1]["lr"] == pytest.approx(steps[0][0]["lr"] / 10, rel=0.05)
    assert summary_of(killed)["held_out"]["before"] == before
    assert summary_of(killed)["held_out"]["after"] == summary_of(alone)["held_out"]["after"]

    # Killed once more while it goes on past its end, it keeps no figure of that.
    process = started(tmp_path / "killed", f"resume={killed}", "sft.steps=4000")
    await_that(process, lambda: len(read_metrics(killed / "metrics.jsonl")) > 60)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left = summary_of(killed)
    assert left["status"] == "running" and left["held_out"] == {"before": before}
    assert not {"after", "steps", "tokens", "flops", "updates_skipped"} & left.keys()


def test_the_model_learns_and_is_written_for_transformers(tmp_path):
    path = write(tmp_path / "demos.jsonl", rows())
    shown = trained(tmp_path / "run", f"data.path={path}", "sft.steps=40")
    summary = summary_of(tmp_path / "run")
    before, after = summary["held_out"]["before"], summary["held_out"]["after"]
    assert after["loss"] < before["loss"] and after["perplexity"] == pytest.approx(math.exp(after["loss"]))
    assert 0 < after["mean_token_accuracy"] <= 1 and after["demonstrations"] == summary["demonstrations"]["held_out"]
    assert summary["demonstrations"]["train"] + after["demonstrations"] == len(SUMS)
    assert summary["demonstrations"]["trained_tokens"] < summary["demonstrations"]["tokens"]
    assert summary["steps"] == 40 and summary["tokens"] > 0 and summary["updates_skipped"] == 0
    assert "before training: held-out loss" in shown and f"{len(SUMS)} rows" in shown
    assert not {"before", "after"} & summary.keys()
    model, tokenizer = (
        kind.from_pretrained(tmp_path / "run" / "model") for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    base, _ = load_policy(ModelSettings(path="tiny"))
    assert not same(dict(model.state_dict()), dict(base.state_dict()))
    assert tokenizer.eos_token_id == model.generation_config.eos_token_id
    # What stands in the checkpoint is the same model.
    moved = weights(tmp_path / "run")
    run = run_of(tmp_path / "run", f"data.path={path}", "sft.steps=40", f"resume={tmp_path / 'run'}", "stage=export")
    export(run, Summary(tmp_path / "run", Console(file=io.StringIO())))
    assert same(weights(tmp_path / "run"), moved)


def test_epochs_make_the_steps_and_the_loss_is_measured_while_training(tmp_path):
    path = write(tmp_path / "demos.jsonl", rows()[:24])
    trained(tmp_path / "run", f"data.path={path}", "sft.steps=null", "sft.epochs=2", "evaluation.every=2")
    found = read_metrics(tmp_path / "run" / "metrics.jsonl")
    count = summary_of(tmp_path / "run")["demonstrations"]["train"]
    assert len(found) == 2 * math.ceil(count / 8)
    assert [row["step"] for row in found if "validation/loss" in row] == list(range(1, len(found), 2))
    assert found[-1]["epoch"] == pytest.approx(len(found) * 8 / count)


def test_answers_are_measured_where_there_are_prompts_to_measure_on(tmp_path):
    path = write(tmp_path / "demos.jsonl", rows())
    source = "+evaluation.sources.sums={generator: arithmetic, size: 6, params: {split: test}}"
    few = (source, "evaluation.prompts=4", "evaluation.k=1", "rollout.max_tokens=8", "sft.steps=2")
    trained(tmp_path / "run", f"data.path={path}", *few)
    summary = summary_of(tmp_path / "run")
    assert summary["before"]["prompts"] == summary["after"]["prompts"] == 4 and summary["metric"] == "accuracy"
    assert {"before", "after"} <= summary["held_out"].keys()
    trained(tmp_path / "off", f"data.path={path}", *few, "evaluation.enabled=false")
    assert not {"before", "after"} & summary_of(tmp_path / "off").keys()
    # What is wrong with them is told before training, measured then or not.
    facts = "+evaluation.sources.facts={generator: talk, size: 6, params: {kinds: [fact]}}"
    with pytest.raises(DataError, match="there is no answer, which the accuracy reward needs"):
        trained(tmp_path / "bad", f"data.path={path}", *few, facts, "evaluation.before=false")
    assert not (tmp_path / "bad" / "metrics.jsonl").exists()


def test_before_and_after_are_of_one_evaluation(tmp_path):
    path = write(tmp_path / "demos.jsonl", rows())
    source = "+evaluation.sources.sums={generator: arithmetic, size: 6, params: {split: test}}"
    run, few = tmp_path / "run", (f"data.path={path}", source, "evaluation.k=1", "evaluation.max_tokens=8")
    trained(run, *few, "sft.steps=1", "evaluation.prompts=2")
    first, again = summary_of(run), (*few, f"resume={run}")
    shown = trained(run, *again, "sft.steps=2", "evaluation.prompts=2", "optimizer.lr=1e-4")
    assert summary_of(run)["before"] == first["before"] and "left out" not in shown
    assert summary_of(run)["held_out"]["before"] == first["held_out"]["before"]
    # The answers are measured in another way, the demonstrations are not.
    shown = trained(run, *again, "sft.steps=3", "evaluation.prompts=2", "evaluation.k=2")
    assert "\nbefore: left out" in shown and "held_out.before: left out" not in shown
    assert "before" not in summary_of(run) and "before" in summary_of(run)["held_out"]
    shown = trained(run, *again, "sft.steps=4", "evaluation.prompts=3", "evaluation.k=2")
    assert "held_out.before: left out" in shown and "before training" not in shown
    held_out = summary_of(run)["held_out"]
    assert held_out.keys() == {"after"} and held_out["after"]["demonstrations"] == 3
    for name in ("checkpoints", "model"):
        shutil.rmtree(run / name)
    shown = trained(run, *again, "sft.steps=1", "evaluation.prompts=2", "evaluation.k=2")
    assert shown.count("before training") == 2 and summary_of(run)["before"]["prompts"] == 2
    assert [summary_of(run)["held_out"][when]["demonstrations"] for when in ("before", "after")] == [2, 2]


@pytest.mark.parametrize(
    "options",
    [
        ("model.packing=padded",),
        ("sft.normalize=constant", "sft.tokens_per_sample=20"),
        ("trainer.precision=bf16-mixed",),
    ],
)
def test_other_ways_of_training(tmp_path, options):
    path = write(tmp_path / "demos.jsonl", rows())
    trained(tmp_path / "run", f"data.path={path}", "sft.steps=12", *options)
    layout = "padded" if "model.packing=padded" in options else "packed"
    assert summary_of(tmp_path / "run")["attention"] == {"name": "sdpa", "sequences": layout}
    held_out = summary_of(tmp_path / "run")["held_out"]
    assert held_out["after"]["loss"] < held_out["before"]["loss"]


def test_raw_text_is_learnt(tmp_path):
    path = write(tmp_path / "text.jsonl", [{"text": f"{WORDS[a]} plus {WORDS[b]} is {WORDS[a + b]}"} for a, b in SUMS])
    trained(tmp_path / "run", f"data.path={path}", "sft.loss_on=text", "sft.steps=20")
    summary = summary_of(tmp_path / "run")
    assert summary["held_out"]["after"]["loss"] < 0.7 * summary["held_out"]["before"]["loss"]
    assert summary["demonstrations"]["trained_tokens"] == (
        summary["demonstrations"]["tokens"] - summary["demonstrations"]["train"]
    )


def test_what_ends_a_turn_ends_what_the_model_samples(tmp_path):
    """A base model whose chat template ends turns with a token of its own."""
    policy, tokenizer = load_policy(ModelSettings(path="tiny"))
    tokenizer.chat_template = CHATML.replace("<|im_start|>", "").replace("<|im_end|>", tokenizer.pad_token)
    save_model(policy, tokenizer, tmp_path / "base")
    chats = [
        {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["response"]},
            ]
        }
        for row in rows()
    ]
    path = write(tmp_path / "chats.jsonl", chats)
    options = (f"model.path={tmp_path / 'base'}", f"data.path={path}")
    shown = trained(tmp_path / "run", *options)
    assert "<|pad|>, which from now on ends the model's completions too" in shown.replace("\n", " ")
    expected = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    saved, _ = load_policy(ModelSettings(path=str(tmp_path / "run" / "model")))
    assert list(stop_ids(saved, tokenizer)) == expected
    run = run_of(tmp_path / "run", *options, f"resume={tmp_path / 'run'}", "stage=export")
    export(run, Summary(tmp_path / "run", Console(file=io.StringIO())))
    saved, _ = load_policy(ModelSettings(path=str(tmp_path / "run" / "model")))
    assert saved.generation_config.eos_token_id == expected


def test_mistakes_are_told_before_training(tmp_path):
    path = write(tmp_path / "demos.jsonl", rows())
    with pytest.raises(DataError, match=r"over-long demonstration.*sft\.max_tokens=8"):
        trained(tmp_path / "short", f"data.path={path}", "sft.max_tokens=8")
    long = write(tmp_path / "long.jsonl", [*rows(), {"prompt": "q", "response": "7 " * 600}])
    with pytest.raises(ConfigError, match=r"more than the model's 512 positions; set sft\.max_tokens=512 or less"):
        trained(tmp_path / "long", f"data.path={long}", "sft.max_tokens=4096")
    left = trained(tmp_path / "left", f"data.path={long}", "sft.max_tokens=512", "sft.steps=1")
    assert "over-long demonstration 1" in left
    assert summary_of(tmp_path / "left")["demonstrations"]["left_out"]["data.path"]["over-long demonstration"] == 1
    with pytest.raises(ConfigError, match=r"data\.path is not set"):
        run_of(tmp_path / "none")


def test_the_stage_is_the_commands(tmp_path):
    path = write(tmp_path / "demos.jsonl", rows())
    run = run_of(tmp_path / "run", f"data.path={path}", "sft.steps=1", "data.validation=0")
    run_stage(run, compose=lambda overrides: ({}, []))
    summary = summary_of(tmp_path / "run")
    assert summary["status"] == "finished" and "held_out" not in summary


@pytest.mark.parametrize("enabled", ["true", "false"])
def test_what_is_measured_is_not_learnt(tmp_path, enabled):
    path = write(tmp_path / "demos.jsonl", rows())
    few = ("evaluation.prompts=4", "evaluation.k=1", "rollout.max_tokens=8", "sft.steps=1", "data.validation=0")
    source = f"+evaluation.sources.sums={{path: {path}, limit: 5}}"
    trained(tmp_path / "run", f"data.path={path}", *few, source, f"evaluation.enabled={enabled}")
    figures = summary_of(tmp_path / "run")["demonstrations"]
    assert figures["left_out"]["data.path"] == {"is a held-out prompt": 5} and figures["train"] == len(SUMS) - 5
    with pytest.raises(DataError, match="nothing left to train on"):
        trained(tmp_path / "all", f"data.path={path}", *few, f"+evaluation.sources.sums.path={path}")
