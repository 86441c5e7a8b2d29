"""A chain of real stages: run through, killed and gone on with, changed, and run twice at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMON = (
    "stage=pipeline",
    "name=chain",
    "++pipeline.common.use={model: tiny, evaluation: tiny, reward: [accuracy, format, helpful]}",
    "++pipeline.common.set.reward.accuracy.when.task=[arithmetic,chain_sum]",
    "++pipeline.common.set.preflight.enabled=false",
    "++pipeline.common.set.evaluation={before: false, k: 1, prompts: 12}",
    "++pipeline.common.set.algorithm={steps: 4, prompts_per_step: 2, group_size: 4}",
    "++pipeline.common.set.trainer.checkpoint_every=1",
    "++pipeline.common.set.completions.every=0",
    "++pipeline.common.set.logger.kind=none",
    "++pipeline.measures.accuracy.figure=pass@1",
    "++pipeline.measures.helpful={figure: rewards.helpful, task: general}",
    "++pipeline.steps.base={title: base, set: {stage: evaluate}}",
    "++pipeline.steps.zero={title: R1-Zero, use: {experiment: r1_zero}}",
    '++pipeline.steps.next={title: next, set: {model: {path: "{steps.zero}/model"}}}',
    "++pipeline.claims.up={says: RL lifts, measure: accuracy, model: zero, above: base, by: -1}",
)


def weights(step: Path) -> bytes:
    return (step / "model" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str]:
    """A chain that nothing interrupted, and what it printed."""
    place = tmp_path_factory.mktemp("whole")
    done = subprocess.run(
        [sys.executable, "-m", "r1lit", *COMMON], cwd=place, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    (run,) = (place / "runs" / "chain").iterdir()
    return run, done.stderr


def test_the_chain_leaves_its_models_its_table_and_its_manifest(finished):
    run, printed = finished
    for line in ("[1/3] base: evaluate", "[2/3] zero: fit", "[3/3] next: fit"):
        assert line in printed
    results = json.loads((run / "results.json").read_text())
    assert results["made_from"] == {"zero": "base", "next": "zero"}
    values = results["values"]["0"]
    assert list(values) == ["base", "zero", "next"]
    for name, measures in values.items():
        summary = json.loads((run / name / "summary.json").read_text())
        figures = summary.get("after") or summary["evaluation"]
        assert measures["accuracy"] == figures["pass@1"]
        assert measures["helpful"] == figures["by_task"]["general"]["rewards"]["helpful"]
    assert results["compute"]["0"]["zero"]["steps"] == 4 and results["compute"]["0"]["zero"]["flops"] > 1e6
    manifest = json.loads((run / "manifest.json").read_text())
    assert list(manifest) == ["base", "zero", "next"] and all(entry["done"] for entry in manifest.values())
    assert json.loads((run / "table.json").read_text())["claims"][0]["verdict"].startswith("holds")
    assert (run / "table.png").stat().st_size > 5000
    assert weights(run / "zero") != weights(run / "next")


def test_steps_side_by_side_end_in_the_same_table(finished, r1lit, tmp_path):
    whole, _ = finished
    done = r1lit(*COMMON, "pipeline.at_once=2")
    (run,) = (tmp_path / "runs" / "chain").iterdir()
    assert json.loads((run / "results.json").read_text()) == json.loads((whole / "results.json").read_text())
    assert weights(run / "next") == weights(whole / "next")
    began = [done.stderr.index(line) for line in ("[1/3] base: evaluate", "[2/3] zero: fit", "[3/3] next: fit")]
    assert began == sorted(began) and done.stderr.index("base: ", began[1]) > began[1]
    assert done.stderr.index("zero: step 4/4") < began[2] < done.stderr.index("next: step 1/4")


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_stopped_anywhere_it_ends_in_the_same_table(finished, r1lit, tmp_path, signum):
    whole, _ = finished
    command = [sys.executable, "-m", "r1lit", *COMMON]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if list(tmp_path.glob("runs/chain/*/zero/checkpoints/step_000002.ckpt")):
            break
        time.sleep(0.02)
    os.kill(process.pid, signum)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == (-9 if signum == signal.SIGKILL else 143), printed
    (run,) = (tmp_path / "runs" / "chain").iterdir()
    assert not (run / "results.json").exists() and not (run / "next").exists()
    if signum == signal.SIGTERM:
        assert f"resume={run}" in printed
    resumed = r1lit(f"resume={run.relative_to(tmp_path)}")
    assert "base: done before" in resumed.stderr
    for step in ("zero", "next"):
        assert weights(run / step) == weights(whole / step)
    before, after = (json.loads((place / "results.json").read_text()) for place in (whole, run))
    assert before == after


def test_a_changed_step_is_refused_and_by_force_made_anew(finished, r1lit, tmp_path):
    whole, _ = finished
    run = tmp_path / "runs" / "chain" / "copy"
    shutil.copytree(whole, run)
    change = "pipeline.steps.next.set.algorithm.steps=2"
    refused = r1lit(f"resume={run}", change, check=False)
    assert refused.returncode == 1 and "another configuration: next" in refused.stderr
    assert "force=true" in refused.stderr and "Traceback" not in refused.stderr
    unchanged = r1lit(f"resume={run}")
    assert unchanged.stderr.count("done before") == 3, "what was refused does not hold"
    forced = r1lit(f"resume={run}", change, "force=true")
    assert "zero: done before" in forced.stderr and "next: fit" in forced.stderr
    assert json.loads((run / "results.json").read_text())["compute"]["0"]["next"]["steps"] == 2


def test_what_is_typed_beside_a_chain_and_would_reach_no_step_is_refused(r1lit, tmp_path):
    refused = r1lit(*COMMON, "algorithm.steps=2", "logger=wandb", check=False)
    assert refused.returncode == 2 and "pipeline.common.set.algorithm.steps=" in refused.stderr
    assert "pipeline.common.use.logger=" in refused.stderr and not list(tmp_path.glob("runs/chain/*"))


def test_the_plan_is_shown_and_nothing_is_left(r1lit, tmp_path):
    shown = r1lit(*COMMON, "dry_run=true")
    for part in ("base", "zero", "next", "zero/model", "4 steps x 2", "to do"):
        assert part in shown.stderr
    assert not list(tmp_path.glob("runs/chain/*"))


def test_a_step_that_fails_stops_the_chain_with_the_way_back(r1lit, tmp_path):
    failed = r1lit(*COMMON, "++pipeline.steps.zero.set.rollout.max_tokens=5000", check=False)
    assert failed.returncode == 2 and "Traceback" not in failed.stderr
    assert "step zero failed" in failed.stderr and "Go on from there with: r1lit resume=" in failed.stderr
