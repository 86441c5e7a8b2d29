"""A run's measures as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table


def evaluation_table(measured: dict[str, dict[str, Any]]) -> Table:
    """Measures side by side, for all prompts and by task: ``{"before": figures, "after": figures}``."""
    table = Table(title=None, header_style="bold")
    for heading in ("", *measured):
        table.add_column(heading, justify="left" if not heading else "right")
    first = next(iter(measured.values()))
    names = [name for name in first if name.startswith(("pass@", "cons@")) and not name.endswith("ci95")]
    for name in names:
        interval = "ci95" if name == "pass@1" else f"{name}_ci95"
        table.add_row(name, *(_with_interval(figures[name], figures[interval]) for figures in measured.values()))
    for task in first["by_task"] if len(first["by_task"]) > 1 else ():
        cells = [figures["by_task"].get(task) for figures in measured.values()]
        table.add_row(
            f"pass@1 {task}", *(_with_interval(cell["pass@1"], cell["ci95"]) if cell else "" for cell in cells)
        )
    for name, form in (("format", ".2f"), ("mean_length", ".1f"), ("truncated", ".2f")):
        table.add_row(name.replace("_", " "), *(format(figures[name], form) for figures in measured.values()))
    return table


def _with_interval(mean: float, interval: Sequence[float]) -> str:
    return f"{mean:.3f}  [{interval[0]:.3f}, {interval[1]:.3f}]"
