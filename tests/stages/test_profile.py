"""Profiles: through the command as a whole, of every kind of training, and the rules of their advice."""

from __future__ import annotations

import gzip
import io
import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from composing import run_of
from rich.console import Console
from torch.profiler import ProfilerActivity, profile, schedule

from r1lit.callbacks.hardware import Peak
from r1lit.callbacks.tracing import HOST, MATMUL, OUTSIDE, Trace, read_trace
from r1lit.functional import head_logprobs
from r1lit.modules.timing import PhaseTimer
from r1lit.stages.profile import profile as profile_stage
from r1lit.stages.profile_advice import Profile, advice
from r1lit.stages.profile_page import page
from r1lit.stages.run import Run
from r1lit.stages.summary import Summary

SMALL = ("algorithm.prompts_per_step=2", "algorithm.group_size=4", "rollout.max_tokens=16", "profile.steps=2")


def test_the_command_leaves_a_page_and_a_trace_and_no_model(r1lit, tmp_path):
    done = r1lit("stage=profile", *SMALL, "trainer.peak_tflops=1")
    (run,) = (tmp_path / "runs" / "r1_zero").iterdir()
    text = (run / "profile.md").read_text()
    assert text in done.stderr
    for part in ("stage=fit", "| sample", "waiting for rewards", "MFU", "peak memory", "aten::mm", "try first"):
        assert part in text, part
    events = json.loads(gzip.decompress((run / "trace.json.gz").read_bytes()))["traceEvents"]
    assert {"phase: sample", "phase: update", "aten::mm"} <= {event.get("name") for event in events}
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["performance"]["mfu"] > 0
    for kind in ("matmul", "attention", "head", "optimiser"):
        assert sum(kinds.get(kind, 0.0) for kinds in summary["trace"]["work"].values()) > 0, kind
    assert not (run / "model").exists() and not (run / "checkpoints").exists()


@pytest.mark.parametrize("experiment", ["sft", "preference_model"])
def test_other_trainings_are_profiled_too(experiment, tmp_path):
    data = tmp_path / "data.jsonl"
    row = {"prompt": "What is 1+2?", "response": "<think> one plus two </think> <answer> 3 </answer>"}
    data.write_text("".join(json.dumps(row | {"prompt": f"What is {n}+2?"}) + "\n" for n in range(40)))
    small = ["sft.batch_size=4", f"data.path={data}"] if experiment == "sft" else ["reward_model.batch_size=4"]
    run = run_of(tmp_path / "run", f"experiment={experiment}", "stage=profile", *small, "profile.steps=1")
    console = Console(file=io.StringIO(), width=200)
    profile_stage(run, Summary(run.directory, console))
    text = (run.directory / "profile.md").read_text()
    assert f"stage={run.profile.of}" in text and run.profile.of in ("sft", "reward_model") and "| update" in text


def test_a_trace_is_sorted_by_phase_and_kind():
    hidden, weight = torch.randn(64, 32, requires_grad=True), torch.randn(100, 32, requires_grad=True)
    ids, query = torch.randint(100, (64,)), torch.randn(1, 2, 8, 16, requires_grad=True)
    optimizer, timer = torch.optim.AdamW([hidden, weight], fused=True), PhaseTimer()
    events, own = [], {}

    def keep(done: profile) -> None:
        events.extend(done.events())
        # torch's own sums of the same events.
        own.update({row.key: (row.count, row.self_cpu_time_total / 1e6) for row in done.key_averages()})

    plan = schedule(wait=0, warmup=0, active=1, repeat=1)
    with profile(activities=[ProfilerActivity.CPU], schedule=plan, on_trace_ready=keep) as profiler:
        with timer.phase("sample"):
            hidden @ weight.T
        with timer.phase("update"):
            attended = torch.nn.functional.scaled_dot_product_attention(query, query, query, is_causal=True)
            (head_logprobs(hidden, weight, ids)[0].sum() + attended.sum()).backward()
            optimizer.step()
        hidden.exp()
        profiler.step()
    trace = read_trace(events, steps=1, device="cpu")
    assert {"sample", "update", OUTSIDE} == trace.by_phase.keys() == trace.work.keys()
    assert trace.work["sample"].keys() - {HOST, "other operators"} == {MATMUL}
    assert trace.work["update"].keys() >= {"head", "attention", "optimiser"}
    assert MATMUL not in trace.work["update"], "the head's products are the head's"
    for name in ("aten::mm", "aten::exp", "_Head", "aten::_fused_adamw_"):
        assert trace.operators[name] == pytest.approx(own[name])
    (step,) = [event for event in events if event.name.startswith("ProfilerStep")]
    whole = pytest.approx(step.time_range.elapsed_us() / 1e6)
    assert sum(trace.kinds.values()) == whole and sum(trace.by_phase.values()) == whole


FOLDER = Path()
"""Nothing is written there."""


@cache
def composed(*overrides: str) -> Run:
    return run_of(FOLDER, *overrides)


def found(*overrides: str, **figures) -> Profile:
    """A profile in which nothing stands out, but for what is given."""
    seconds = {"sample": 0.3, "update": 0.6, "score": 0.05, "step": 1.0} | figures.get("seconds", {})
    work = {"update": {MATMUL: 0.5, HOST: 0.1}, "sample": {MATMUL: 0.3}} | figures.get("work", {})
    trace = Trace(1, "cuda", {"update": 0.6, "sample": 0.3}, work, {"aten::mm": (3, 0.8)})
    performance = {"tokens_per_second": 9.0, "padding_update": 0.1} | figures.get("performance", {})
    return Profile(composed(*overrides), seconds, performance, trace, Peak("here"))


QUIET = "Nothing stands out by the rules of this page."


@pytest.mark.parametrize(
    ("overrides", "figures", "expected"),
    [
        ((), {}, QUIET),
        (("workers=3",), {"seconds": {"score": 0.2}}, "20% of a step waits for rewards .* workers=6"),
        (("rollout.max_batch_rows=64",), {"seconds": {"sample": 0.5}}, "64 of its 256 .*max_batch_rows=128"),
        ((), {"performance": {"padding_update": 0.3}}, "30% of the tokens .* algorithm.micro_batch_tokens"),
        ((), {"work": {"update": {MATMUL: 0.1, HOST: 0.5}}}, "83% of the update .* algorithm.micro_batch_tokens"),
        ((), {"work": {"update": {"optimiser": 0.3}}}, "optimiser takes 33% .* algorithm.minibatches"),
        (("model.attention=eager",), {}, "model.attention=auto"),
        ((), {"work": {"update": {"attention": 0.5}}}, "Attention takes 56%"),
    ],
)
def test_advice_states_its_figure_and_the_setting(overrides, figures, expected):
    (line,) = advice(found(*overrides, **figures))
    assert re.search(expected, line), line


def test_a_cpu_with_idle_cores_is_told(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    profile = found()
    (line,) = advice(replace(profile, trace=replace(profile.trace, device="cpu")))
    assert line.startswith(f"torch uses {torch.get_num_threads()} of 8 cores: OMP_NUM_THREADS=8")


def test_the_page_is_a_page():
    text = page(found())
    for row in ("update", "0.600", "60%"), ("rest", "0.050", "5%"), ("aten::mm", "3", "800.0", "88.9%"):
        assert re.search(r"\| " + r" +\| +".join(row) + r" \|", text), row
    assert len(text.splitlines()) < 60
