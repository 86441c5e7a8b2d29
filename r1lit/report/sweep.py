"""The runs of a sweep side by side: what each was given, and how right its policy is on held-out prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from r1lit.callbacks.storage import replacing

RESULT = "sweep.json"
"""In the sweep's directory: a record for each run, in the order in which they ran."""


def objective(directory: Path) -> float | None:
    """What a sweep maximises: a run's pass@1 on held-out prompts after training, or its evaluation's; None without."""
    figures = _figures(directory)
    return (figures.get("after") or figures.get("evaluation") or {}).get("pass@1")


def conclude_sweep(directory: Path, console: Console | None = None) -> None:
    """Print the table of a sweep's runs, name the best, and write ``sweep.json``."""
    console = console or Console(stderr=True)
    runs = [_record(folder) for folder in sorted(directory.iterdir(), key=_order) if (folder / ".hydra").is_dir()]
    with replacing(directory / RESULT) as part:
        part.write_text(json.dumps(runs, indent=2) + "\n")
    console.print(sweep_table(runs))
    judged = [run for run in runs if run["pass@1"] is not None]
    if judged:
        best = max(judged, key=lambda run: run["pass@1"])
        console.print(f"  best: {directory / best['run']}", highlight=False, soft_wrap=True)
    console.print(f"  {directory / RESULT}  the same as JSON", highlight=False, soft_wrap=True)


def sweep_table(runs: list[dict[str, Any]]) -> Table:
    """One row a run: the overrides that are not the same for all, how it ended, pass@1 before and after."""
    names = list(dict.fromkeys(name for run in runs for name in run["overrides"]))
    varied = [name for name in names if len({run["overrides"].get(name) for run in runs}) > 1]
    table = Table(title=None, header_style="bold")
    for heading in ("run", *varied, "ended"):
        table.add_column(heading, overflow="fold")
    for heading in ("before", "pass@1"):
        table.add_column(heading, justify="right")
    for run in runs:
        given = (_short(run["overrides"].get(name, "")) for name in varied)
        after = _shown(run["pass@1"]) + (_interval(run["ci95"]) if run["ci95"] else "")
        table.add_row(run["run"], *given, run["status"], _shown(run["before"]), after)
    return table


def _record(folder: Path) -> dict[str, Any]:
    figures = _figures(folder)
    after = figures.get("after") or figures.get("evaluation") or {}
    return {
        "run": folder.name,
        "overrides": _overrides(folder),
        "status": figures.get("status", "did not begin"),
        "reason": figures.get("reason"),
        "before": (figures.get("before") or {}).get("pass@1"),
        "pass@1": after.get("pass@1"),
        "ci95": after.get("ci95"),
    }


def _overrides(folder: Path) -> dict[str, str]:
    typed = yaml.safe_load((folder / ".hydra" / "overrides.yaml").read_text()) or []
    pairs = (override.lstrip("+~").partition("=") for override in typed)
    return {name: value for name, _, value in pairs}


def _figures(folder: Path) -> dict[str, Any]:
    path = folder / "summary.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _order(folder: Path) -> tuple[bool, int, str]:
    """Runs are numbered; other names come after them."""
    return (not folder.name.isdigit(), int(folder.name) if folder.name.isdigit() else 0, folder.name)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _short(value: str) -> str:
    """Four digits of a number, which tell one run from another."""
    try:
        return value if value.lstrip("-").isdigit() else f"{float(value):.4g}"
    except ValueError:
        return value


def _interval(bounds: list[float]) -> str:
    return f"  \\[{bounds[0]:.3f}, {bounds[1]:.3f}]"
