"""Whole runs through the command, in a process of their own, in an empty directory: what a user sees and keeps."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

SHORT = (
    "algorithm.steps=4",
    "algorithm.prompts_per_step=4",
    "algorithm.group_size=4",
    "evaluation.prompts=12",
    "evaluation.k=2",
    "preflight.prompts=8",
    "completions.every=2",
    "trainer.checkpoint_every=2",
)


def only_run(folder: Path, name: str = "r1_zero") -> Path:
    (run,) = [path for path in (folder / "runs" / name).iterdir() if path.is_dir()]
    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(run / "model").state_dict()


def metrics(run: Path) -> list[dict]:
    """The metrics of every step, without what depends on the clock."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(("time/", "perf/"))} for row in rows]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A short run of the default experiment, shared by the tests that only read it."""
    folder = tmp_path_factory.mktemp("finished")
    done = subprocess.run(
        [sys.executable, "-m", "r1lit", *SHORT], cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    (folder / "stderr").write_text(done.stderr)
    return folder


def test_a_run_leaves_what_it_promises(finished):
    run = only_run(finished)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["steps"] == 4 and summary["tokens"] > 0
    assert {"sample", "score", "update", "fit"} <= summary["seconds"].keys()
    assert {"torch", "transformers", "r1lit"} <= summary["versions"].keys()
    for when in ("before", "after"):
        figures = summary[when]
        assert {"pass@1", "ci95", "mean_length", "format", "pass@2", "cons@2"} <= figures.keys()
        assert 0 <= figures["ci95"][0] <= figures["pass@1"] <= figures["ci95"][1] <= 1
        assert figures["by_task"] and all("pass@1" in task for task in figures["by_task"].values())
    rows = metrics(run)
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert {
        "reward",
        "reward_std",
        "rewards/accuracy/mean",
        "rewards/format/mean",
        "kl",
        "entropy",
        "loss",
        "grad_norm",
        "completions/mean_length",
        "completions/clipped_ratio",
        "frac_reward_zero_std",
    } <= rows[0].keys()
    assert (run / "config.yaml").read_text().count("group_size: 4") == 1
    assert (run / "progress.png").read_bytes().startswith(b"\x89PNG")
    assert list((run / "csv").rglob("metrics.csv"))


def test_completions_come_with_every_rewards_column(finished):
    folder = only_run(finished) / "completions"
    assert sorted(path.name for path in folder.iterdir()) == [f"step_{step:06d}.parquet" for step in (0, 2, 3)]
    table = pq.read_table(folder / "step_000000.parquet").to_pylist()
    assert len(table) == 16
    for row in table:
        assert row["reward"] == pytest.approx(row["rewards/accuracy"] + row["rewards/format"])
        assert (row["rewards/accuracy"] == 1.0) == (
            row["answer"] is not None and row["answer"].strip() == row["expected"]
        )
    for group in range(4):
        assert sum(row["advantage"] for row in table if row["group"] == group) == pytest.approx(0, abs=1e-3)


def test_the_terminal_tells_how_it_went_and_where_things_lie(finished):
    shown = (finished / "stderr").read_text()
    for expected in (
        "pre-flight: pass@1",
        "before training",
        "after training",
        "step 4/4",
        "tok/s",
        "summary.json",
        "model",
    ):
        assert expected in shown
    assert "Traceback" not in shown and "Warning" not in shown


def test_the_exported_model_is_plain_transformers_and_says_the_same(finished):
    """Greedy tokens of transformers' own generate on the exported folder, against r1lit's sampler on the checkpoint."""
    from r1lit.models.loading import ModelSettings, load_policy
    from r1lit.rollout.transformers_sampler import TransformersSampler
    from r1lit.text.templates import R1_ZERO
    from r1lit.types import Prompt, Sampling

    run = only_run(finished)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(run / "model"), AutoTokenizer.from_pretrained(run / "model")
    policy, _ = load_policy(ModelSettings(path="tiny"))
    state = torch.load(run / "checkpoints" / "step_000004.ckpt", weights_only=True)["state_dict"]
    policy.load_state_dict({k.removeprefix("policy."): v for k, v in state.items() if k.startswith("policy.")})
    for question in ("3 + 4 - 2 = ?", "What is 9 - 5 + 1?", "你好"):
        ids = tokenizer(R1_ZERO.replace("{prompt}", question), return_tensors="pt").input_ids
        plain = model.generate(ids, do_sample=False, max_new_tokens=40)[0, ids.shape[1] :].tolist()
        prompt = Prompt(ids=tuple(ids[0].tolist()), raw=question)
        sampler = TransformersSampler(policy, tokenizer)
        rollout = sampler.generate([prompt], 1, Sampling(temperature=0, max_tokens=40), seed=0)
        assert rollout.groups[0].completion_ids[0] == plain


def test_two_runs_at_once_do_not_share_a_directory(tmp_path):
    command = [sys.executable, "-m", "r1lit", *SHORT, "evaluation.enabled=false", "preflight.enabled=false"]
    both = [
        subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
        for _ in range(2)
    ]
    for process in both:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
    runs = list((tmp_path / "runs" / "r1_zero").iterdir())
    assert len(runs) == 2
    first, second = (weights(run) for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_killed_run_resumes_to_the_same_bits(r1lit, tmp_path):
    """SIGKILL between checkpoints, then resume: weights and metrics equal those of a run that was left alone."""
    quick = (*SHORT, "evaluation.enabled=false", "algorithm.steps=8", "algorithm.reference_refresh=3")
    (tmp_path / "alone").mkdir()
    r1lit(*quick, cwd=tmp_path / "alone")
    alone = only_run(tmp_path / "alone")

    (tmp_path / "killed").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "r1lit", *quick],
        cwd=tmp_path / "killed",
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed").rglob("step_000004.ckpt")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    killed = only_run(tmp_path / "killed")
    assert not (killed / "model").exists()
    r1lit(f"resume={killed}", cwd=tmp_path / "killed")
    assert metrics(killed) == metrics(alone)
    expected, resumed = weights(alone), weights(killed)
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_state_and_says_how_to_go_on(r1lit, tmp_path, signum):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "r1lit",
            *SHORT,
            "evaluation.enabled=false",
            "algorithm.steps=500",
            "trainer.checkpoint_every=0",
        ],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    while not (found := list(tmp_path.rglob("metrics.jsonl"))) or found[0].read_text().count("\n") < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signum, errors
    run = only_run(tmp_path)
    assert "r1lit resume=" in errors and "Traceback" not in errors
    done = len(metrics(run))
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step_{done:06d}.ckpt"]
    r1lit(f"resume={run}", f"algorithm.steps={done + 2}", cwd=tmp_path)
    assert [row["step"] for row in metrics(run)] == list(range(done + 2))


def test_export_writes_the_last_checkpoint(r1lit, finished, tmp_path):
    run = only_run(finished)
    before = weights(run)
    moved = tmp_path / "model"
    (run / "model").rename(moved)
    r1lit("stage=export", f"resume={run}", cwd=finished)
    after = weights(run)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_ones_own_questions_and_ones_own_reward(r1lit, tmp_path):
    """A 20-line JSONL and a reward file of a user's own, without touching r1lit."""
    rows = [{"question": f"What is {a} + {a + 1} - 1?", "solution": str(2 * a)} for a in range(20)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "plugins" / "conf" / "reward").mkdir(parents=True)
    (tmp_path / "plugins" / "short.py").write_text(
        "def short(completions, **columns):\n"
        "    assert columns['solution'] is not None or columns['answer']\n"
        "    return [-len(text) / 100 for text in completions]\n".replace("columns['solution'] is not None or ", "")
    )
    (tmp_path / "plugins" / "conf" / "reward" / "short.yaml").write_text(
        "short:\n  _target_: short.short\n  weight: 0.5\n"
    )
    r1lit(
        *SHORT,
        "data.path=sums.jsonl",
        "data.columns.prompt=question",
        "data.columns.answer=solution",
        "reward=[accuracy,format,short]",
        "reward.short.weight=0.1",
        "name=mine",
    )
    run = only_run(tmp_path, "mine")
    row = metrics(run)[0]
    assert row["rewards/short/mean"] < 0
    expected = row["rewards/accuracy/mean"] + row["rewards/format/mean"] + 0.1 * row["rewards/short/mean"]
    assert row["reward"] == pytest.approx(expected, abs=1e-5)


def test_evaluate_a_runs_model(r1lit, finished, tmp_path):
    r1lit(
        "stage=evaluate",
        "model=tiny",
        f"model.path={only_run(finished) / 'model'}",
        "data=tiny",
        "evaluation.prompts=10",
        "evaluation.k=4",
        "rollout.max_tokens=64",
        "name=check",
    )
    run = only_run(tmp_path, "check")
    figures = json.loads((run / "summary.json").read_text())["evaluation"]
    assert figures["samples"] == 40 and {"pass@1", "pass@4", "cons@4"} <= figures.keys()
    samples = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 40
    assert sum(sample["correct"] for sample in samples) / 40 == pytest.approx(figures["pass@1"])
