"""A run's measures as a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.table import Table

FIGURES = {
    "format": ".2f",
    "thinking": ".2f",
    "language": ".2f",
    "reflection": ".2f",
    "mean_length": ".1f",
    "truncated": ".2f",
}
"""Shown below what is right: the name of a figure and its format."""


def evaluation_table(measured: dict[str, dict[str, Any]]) -> Table:
    """Measures side by side, for all prompts and by task: ``{"before": figures, "after": figures}``."""
    table = Table(title=None, header_style="bold")
    for heading in ("", *measured):
        table.add_column(heading, justify="left" if not heading else "right")
    # A resumed run may have been measured with another number of samples, or on other tasks.
    names = _union(figures for figures in measured.values())
    for name in names:
        if name.startswith(("pass@", "cons@")) and not name.endswith("ci95"):
            table.add_row(name, *(_with_interval(figures, name) for figures in measured.values()))
    tasks = _union(figures["by_task"] for figures in measured.values())
    for task in tasks if len(tasks) > 1 else ():
        if not any("pass@1" in figures["by_task"].get(task, {}) for figures in measured.values()):
            continue
        cells = (figures["by_task"].get(task, {}) for figures in measured.values())
        table.add_row(f"pass@1 {task}", *(_with_interval(cell, "pass@1") for cell in cells))
    for name, form in FIGURES.items():
        cells = [figures.get(name) for figures in measured.values()]
        if any(cell is not None for cell in cells):
            table.add_row(name.replace("_", " "), *("" if cell is None else format(cell, form) for cell in cells))
    for name in _union(figures.get("rewards", {}) for figures in measured.values()):
        cells = [figures.get("rewards", {}).get(name) for figures in measured.values()]
        table.add_row(f"reward {name}", *("" if cell is None else f"{cell:.2f}" for cell in cells))
    if any(figures["unjudged"] for figures in measured.values()):
        table.add_row("could not be judged", *(str(figures["unjudged"]) for figures in measured.values()))
    return table


def _union(names: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for some in names for name in some))


def _with_interval(figures: dict[str, Any], name: str) -> str:
    if name not in figures:
        return ""
    low, high = figures["ci95" if name == "pass@1" else f"{name}_ci95"]
    return f"{figures[name]:.3f}  [{low:.3f}, {high:.3f}]"
