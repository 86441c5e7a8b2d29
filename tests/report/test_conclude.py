from __future__ import annotations

import io
import json

from rich.console import Console

from r1lit.report.conclude import conclude

FIGURES = {"pass@1": 0.5, "ci95": [0.4, 0.6], "mean_length": 9.0, "format": 1.0, "truncated": 0.0, "unjudged": 0}
FIGURES["by_task"] = {}


def test_the_end_names_what_there_is_and_nothing_else(tmp_path):
    step = {"step": 0, "rewards/accuracy/mean": 0.5, "completions/mean_length": 9.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(step) + "\n")
    (tmp_path / "summary.json").write_text(json.dumps({"before": FIGURES, "after": FIGURES}))
    console = Console(file=io.StringIO(), width=300)
    conclude(tmp_path, console)
    text = console.file.getvalue()
    for name in ("summary.json", "metrics.jsonl", "progress.png"):
        assert str(tmp_path / name) in text
    assert "checkpoints" not in text and "model" not in text and "before" in text


def test_a_stage_without_measures_has_no_table(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({"cases": 4}))
    console = Console(file=io.StringIO(), width=300)
    conclude(tmp_path, console)
    assert console.file.getvalue().split() == f"{tmp_path}/summary.json the figures above, and more".split()
