from __future__ import annotations

import io
import json
from pathlib import Path

import yaml
from rich.console import Console

from r1lit.report.sweep import conclude_sweep, objective


def job(folder: Path, overrides: list[str], figures: dict | None = None) -> None:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    if figures is not None:
        (folder / "summary.json").write_text(json.dumps(figures))


def concluded(folder: Path) -> tuple[list[dict], str]:
    console = Console(file=io.StringIO(), width=160)
    conclude_sweep(folder, console)
    return json.loads((folder / "sweep.json").read_text()), console.file.getvalue()


def test_runs_in_their_order_with_what_varies_and_the_best(tmp_path):
    for number, (rate, right) in enumerate([("1e-4", 0.5), ("0.00012345678", 0.75), *[("3e-4", 0.25)] * 9]):
        figures = {"status": "finished", "before": {"pass@1": 0.1}, "after": {"pass@1": right, "ci95": [0.2, 0.8]}}
        job(tmp_path / str(number), [f"++optimizer.lr={rate}", "name=same"], figures)
    (tmp_path / "multirun.yaml").write_text("")
    runs, shown = concluded(tmp_path)
    assert [run["run"] for run in runs] == [str(number) for number in range(11)]
    assert runs[1] == {
        "run": "1",
        "overrides": {"optimizer.lr": "0.00012345678", "name": "same"},
        "status": "finished",
        "reason": None,
        "before": 0.1,
        "pass@1": 0.75,
        "ci95": [0.2, 0.8],
    }
    assert "optimizer.lr" in shown and "name" not in shown and "0.0001235" in shown
    assert "0.750  [0.200, 0.800]" in shown and f"best: {tmp_path / '1'}" in shown


def test_runs_that_failed_are_told_of_and_are_not_the_best(tmp_path):
    job(tmp_path / "0", ["a=1"], {"status": "refused", "reason": "a=1: no"})
    job(tmp_path / "1", ["a=2"])
    runs, shown = concluded(tmp_path)
    assert [(run["status"], run["reason"], run["pass@1"]) for run in runs] == [
        ("refused", "a=1: no", None),
        ("did not begin", None, None),
    ]
    assert "refused" in shown and "best" not in shown


def test_an_evaluations_figure_counts_where_nothing_was_trained(tmp_path):
    job(tmp_path / "0", ["evaluation.temperature=0.6"], {"status": "finished", "evaluation": {"pass@1": 0.5}})
    assert objective(tmp_path / "0") == 0.5 and objective(tmp_path) is None
    (tmp_path / "0" / "summary.json").write_text(json.dumps({"before": {"pass@1": 0.9}}))
    assert objective(tmp_path / "0") is None
