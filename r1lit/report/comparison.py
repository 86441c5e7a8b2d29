"""The models of a chain against each other: the table, what each step changed, the claims, and the picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from r1lit.callbacks.storage import replacing
from r1lit.functional import seeds_interval

WIDE = 160

Cell = tuple[float, tuple[float, float] | None]
"""A mean over seeds, and its 95 % interval where there is more than one."""


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Attributes:
        says: the claim.
        left: the model and measure that should be above, and its mean.
        right: what it is compared with.
        difference: mean difference over the seeds.
        interval: its 95 % interval over seeds, with more than one.
        by: the difference that was asked for.
        verdict: in words.
    """

    says: str
    left: str
    right: str
    difference: float | None
    interval: tuple[float, float] | None
    by: float
    verdict: str


class Results:
    """A chain's ``results.json``: every model's measures, by seed."""

    def __init__(self, directory: Path):
        self.directory = directory
        stored = json.loads((directory / "results.json").read_text())
        self.models: dict[str, str] = stored["models"]
        self.measures: dict[str, dict[str, Any]] = stored["measures"]
        self.made_from: dict[str, str] = stored["made_from"]
        self.claims: dict[str, dict[str, Any]] = stored["claims"]
        self.compute: dict[str, dict[str, dict[str, float]]] = stored["compute"]
        self.values: dict[str, dict[str, dict[str, float | None]]] = stored["values"]

    def of(self, model: str, measure: str) -> list[float | None]:
        """A model's measure, one value a seed; None where it could not be taken."""
        return [models.get(model, {}).get(measure) for models in self.values.values()]

    def cell(self, model: str, measure: str) -> Cell | None:
        """A model's measure over the seeds."""
        return _cell(self.of(model, measure))

    def flops(self, model: str) -> Cell | None:
        """What a model's own training took, over the seeds; None where it was not trained."""
        return _cell([steps.get(model, {}).get("flops") for steps in self.compute.values()])

    def change(self, model: str, measure: str) -> Cell | None:
        """What a model's making changed in a measure, against the model that it was made from."""
        before, after = self.of(self.made_from[model], measure), self.of(model, measure)
        return _cell([_minus(new, old) for new, old in zip(after, before, strict=True)])

    def verdicts(self) -> list[Verdict]:
        """Every claim with both sides, their difference and whether it holds."""
        return [self._verdict(**claim) for claim in self.claims.values()]

    def _verdict(
        self, says: str, measure: str, model: str, above: str | None, than: str | None, by: float
    ) -> Verdict:
        other, other_measure = above or model, than or measure
        compared = above is not None or than is not None
        left = self.of(model, measure)
        right = self.of(other, other_measure) if compared else [0.0] * len(left)
        difference = _cell([_minus(one, two) for one, two in zip(left, right, strict=True)])
        sides = (self._side(model, measure, left), self._side(other, other_measure, right) if compared else "0")
        if difference is None:
            return Verdict(says, *sides, None, None, by, "could not be measured")
        return Verdict(says, *sides, *difference, by, _judged(difference, by))

    def _side(self, model: str, measure: str, values: Sequence[float | None]) -> str:
        found = _cell(values)
        return f"{self.models[model]} {measure} {'-' if found is None else format(found[0], '.3f')}"


def _judged(difference: Cell, by: float) -> str:
    at, interval = difference
    # To be above is to be above: a tie bears no claim out.
    enough = (lambda value: value > 0) if by == 0 else (lambda value: value >= by)
    if not enough(at):
        return "DOES NOT HOLD HERE"
    if interval is None:
        return "holds (one seed)"
    return "holds" if enough(interval[0]) else "holds on average; the interval over seeds reaches below"


def _minus(one: float | None, two: float | None) -> float | None:
    return None if one is None or two is None else one - two


def _cell(values: Sequence[float | None]) -> Cell | None:
    known = [value for value in values if value is not None]
    return (mean(known), seeds_interval(known)) if known else None


def show(directory: Path, console: Console) -> None:
    """Print the table, the changes and the claims of a chain; write ``table.json`` and ``table.png``."""
    results = Results(directory)
    verdicts = results.verdicts()
    tables = [models_table(results)]
    if results.made_from:
        tables.append(changes_table(results))
    if verdicts:
        tables.append(claims_table(verdicts))
    # A file takes lines of any length; rich would cut them as for a terminal.
    wide = console if console.is_terminal else Console(file=console.file, width=max(console.width, WIDE))
    for table in tables:
        wide.print(table)
    write(results, verdicts)


def models_table(results: Results) -> Table:
    """All models against all measures; the last column is what a model's own training took."""
    seeds = len(results.values)
    title = f"models and measures (mean of {seeds} seeds, 95 % intervals)" if seeds > 1 else "models and measures"
    table = _header(results, title, "TFLOP")
    for model, name in results.models.items():
        flops = results.flops(model)
        compute = "-" if flops is None else f"{flops[0] / 1e12:.2f}"
        table.add_row(escape(name), *_cells(results, model, results.cell, ""), compute)
    return table


def changes_table(results: Results) -> Table:
    """What each step changed, on what it was trained for and on all else: forgetting shows as a minus."""
    table = _header(results, "change against the model it was made from")
    for model, origin in results.made_from.items():
        name = f"{results.models[model]} <- {results.models[origin]}"
        table.add_row(escape(name), *_cells(results, model, results.change, "+"))
    return table


def _header(results: Results, title: str, *further: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("model")
    for name in (*results.measures, *further):
        table.add_column(name, justify="right")
    return table


def _cells(results: Results, model: str, cell: Callable[[str, str], Cell | None], sign: str) -> list[str]:
    return [_shown(cell(model, name), measure["digits"], sign) for name, measure in results.measures.items()]


def _shown(cell: Cell | None, digits: int, sign: str) -> str:
    if cell is None:
        return "-"
    at, interval = cell
    half = f" ±{(interval[1] - interval[0]) / 2:.{digits}f}" if interval else ""
    return f"{at:{sign}.{digits}f}{half}"


def claims_table(verdicts: Sequence[Verdict]) -> Table:
    """Every claim with its two sides, the difference and the verdict."""
    table = Table(title="claims", title_justify="left", header_style="bold", show_lines=True)
    for heading in ("claim", "this side", "that side", "difference", "at least", "verdict"):
        table.add_column(heading, overflow="fold")
    for one in verdicts:
        spread = f" [{one.interval[0]:+.3f}, {one.interval[1]:+.3f}]" if one.interval else ""
        found = "-" if one.difference is None else f"{one.difference:+.3f}{spread}"
        table.add_row(escape(one.says), escape(one.left), escape(one.right), found, f"{one.by:+.3f}", one.verdict)
    return table


def write(results: Results, verdicts: Sequence[Verdict]) -> None:
    """Write ``table.json`` and ``table.png``, each whole or not at all."""
    rows = {
        results.models[model]: {name: _plain(results.cell(model, name)) for name in results.measures}
        | {"flops": _plain(results.flops(model))}
        for model in results.models
    }
    text = json.dumps({"models": rows, "claims": [asdict(one) for one in verdicts]}, indent=2, ensure_ascii=False)
    with replacing(results.directory / "table.json") as part:
        part.write_text(text + "\n")
    with replacing(results.directory / "table.png") as part:
        draw(results).savefig(part, format="png")


def _plain(cell: Cell | None) -> Mapping[str, Any] | None:
    return None if cell is None else {"mean": cell[0], "ci95": cell[1]}


def draw(results: Results) -> Figure:
    """One small chart a measure: a bar a model, with its interval over seeds."""
    names = [name for name in results.measures if any(results.cell(model, name) for model in results.models)]
    columns = min(len(names), 4) or 1
    lines = -(-len(names) // columns) or 1
    height = 0.9 + 0.28 * len(results.models)
    figure = Figure(figsize=(3.4 * columns, height * lines), dpi=120, layout="constrained")
    for place, name in enumerate(names, start=1):
        axes = figure.add_subplot(lines, columns, place)
        cells = [results.cell(model, name) for model in results.models]
        at = [cell[0] if cell else 0.0 for cell in cells]
        axes.barh(range(len(at)), at, color="tab:blue", alpha=0.75)
        ends = [max([cell[0], *(cell[1] or ())]) if cell else 0.0 for cell in cells]
        for row, (cell, end) in enumerate(zip(cells, ends, strict=True)):
            if cell and cell[1]:
                axes.plot(cell[1], [row, row], "k-", linewidth=1)
            label = _shown(cell, results.measures[name]["digits"], "")
            axes.annotate(label, (end, row), (3, 0), textcoords="offset points", va="center", fontsize=7)
        axes.set_yticks(range(len(at)), results.models.values() if place % columns == 1 or columns == 1 else [])
        axes.tick_params(labelsize=8)
        axes.set_title(name, fontsize=9)
        axes.invert_yaxis()
        # Room for the labels, which stand after the intervals.
        axes.set_xlim(min([0.0, *at]), 1.4 * max([*ends, 1e-9]))
        axes.spines[["top", "right"]].set_visible(False)
    return figure
