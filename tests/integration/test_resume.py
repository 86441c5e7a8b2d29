"""Going on with a run: what is kept, what follows the settings typed now, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

QUICK = (
    "algorithm.prompts_per_step=4",
    "algorithm.group_size=4",
    "algorithm.minibatches=1",
    "evaluation.enabled=false",
    "preflight.enabled=false",
)


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def run(r1lit, tmp_path) -> Path:
    r1lit(*QUICK, "algorithm.steps=2")
    (directory,) = (tmp_path / "runs" / "r1_zero").iterdir()
    return directory


def test_what_is_typed_on_resuming_holds_and_what_was_refused_does_not(r1lit, run):
    r1lit("stage=export", f"resume={run}")
    refused = r1lit(f"resume={run}", "algorithm.stepz=5", check=False)
    assert refused.returncode == 2 and "did you mean steps?" in refused.stderr
    r1lit(f"resume={run}", "algorithm.steps=3", "optimizer.lr=1e-7", "algorithm.kl_coef=0")
    assert [row["lr"] for row in metrics(run)] == pytest.approx([2e-4, 2e-4, 1e-7])
    assert "kl" in metrics(run)[1] and "kl" not in metrics(run)[2]
    # And the next one goes by these settings, with a reference again if it asks for one.
    r1lit(f"resume={run}", "algorithm.steps=4", "algorithm.kl_coef=0.01")
    assert metrics(run)[3]["lr"] == pytest.approx(1e-7) and "kl" in metrics(run)[3]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 4 and summary["seconds"]["fit"] >= summary["seconds"]["step"]


def test_a_finished_run_without_a_checkpoint_is_not_done_over(r1lit, tmp_path):
    r1lit(*QUICK, "algorithm.steps=1", "trainer.checkpoint_every=0", "name=bare")
    (run,) = (tmp_path / "runs" / "bare").iterdir()
    before = (run / "model" / "model.safetensors").read_bytes()
    refused = r1lit(f"resume={run}", check=False)
    assert refused.returncode == 1 and "a finished run without a checkpoint" in refused.stderr
    assert (run / "model" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(("precision", "kind"), [("bf16-true", "adamw_8bit"), ("bf16-mixed", "adamw")])
def test_every_precision_trains(r1lit, tmp_path, precision, kind):
    """On-policy but for rounding: with a learning rate of next to nothing, no ratio may leave GSPO's narrow band."""
    r1lit(
        *QUICK,
        "algorithm=gspo",
        "algorithm.steps=2",
        "algorithm.minibatches=2",
        "optimizer.lr=1e-12",
        f"optimizer.kind={kind}",
        f"trainer.precision={precision}",
        f"name={precision}",
    )
    (run,) = (tmp_path / "runs" / precision).iterdir()
    for row in metrics(run):
        assert row["clip_ratio/region_mean"] == 0
        assert row["updates_skipped"] == 0
