"""Pictures of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from r1lit.callbacks.recorder import read_metrics
from r1lit.callbacks.storage import replacing


def draw(directory: Path) -> Path | None:
    """Draw accuracy and response length against steps into ``progress.png``; None where no step sampled anything.

    Raises:
        StorageError: where there is no room for it; no half a picture is left.
    """
    steps = read_metrics(directory / "metrics.jsonl")
    if not any("completions/mean_length" in step for step in steps):
        return None
    summary = json.loads((directory / "summary.json").read_text())
    metric = summary.get("metric", "accuracy")
    figure = Figure(figsize=(11, 4), dpi=120, layout="constrained")
    accuracy, length = figure.subplots(1, 2)
    _curve(accuracy, steps, f"rewards/{metric}/mean", f"{metric} while training", "tab:blue")
    _curve(length, steps, "completions/mean_length", "completions while training", "tab:orange")
    _held_out(accuracy, steps, summary, "pass@1", "ci95")
    _held_out(length, steps, summary, "mean_length", None)
    accuracy.set(title=metric, ylabel="mean over completions")
    # A metric of one's own may leave [0, 1].
    accuracy.set_ylim(min(0.0, accuracy.dataLim.y0), max(1.02, accuracy.dataLim.y1))
    length.set(title="response length", ylabel="tokens")
    for axes in (accuracy, length):
        axes.set_xlabel("step")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(loc="best", frameon=False)
    path = directory / "progress.png"
    with replacing(path) as part:
        figure.savefig(part, format="png")
    return path


def _curve(axes: Axes, steps: Sequence[dict[str, Any]], name: str, label: str, colour: str) -> None:
    points = [(step["step"] + 1, step[name]) for step in steps if step.get(name) is not None]
    if not points:
        return
    at, values = zip(*points, strict=True)
    window = max(1, len(values) // 20)
    smooth = [
        sum(values[max(0, i - window + 1) : i + 1]) / len(values[max(0, i - window + 1) : i + 1])
        for i in range(len(values))
    ]
    axes.plot(at, values, color=colour, alpha=0.25, linewidth=1)
    axes.plot(at, smooth, color=colour, label=label)


def _held_out(
    axes: Axes, steps: Sequence[dict[str, Any]], summary: dict[str, Any], name: str, interval: str | None
) -> None:
    points = [(0, summary.get("before")), (steps[-1]["step"] + 1, summary.get("after"))]
    points[1:1] = [
        (step["step"] + 1, {name: step[f"validation/{name}"]}) for step in steps if f"validation/{name}" in step
    ]
    known = [(at, figures) for at, figures in points if figures]
    if not known:
        return
    # A line between two points far apart would be read as the way from one to the other.
    style = "ko--" if len(known) > 2 else "ko"
    axes.plot([at for at, _ in known], [figures[name] for _, figures in known], style, linewidth=1, label="held out")
    for at, figures in known:
        if interval in figures:
            axes.plot([at, at], figures[interval], "k-", linewidth=2)
