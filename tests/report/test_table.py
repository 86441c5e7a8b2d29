from __future__ import annotations

import io

from rich.console import Console

from r1lit.report.table import evaluation_table


def figures(accuracy: float, k: int = 4, **changes) -> dict:
    one = {"pass@1": accuracy, "ci95": [accuracy - 0.05, accuracy + 0.05]}
    if k > 1:
        one |= {f"pass@{k}": 0.9, f"pass@{k}_ci95": [0.8, 0.95]}
    one |= {f"cons@{k}": 0.6, f"cons@{k}_ci95": [0.5, 0.7], "mean_length": 21.25, "format": 0.5, "truncated": 0.0}
    return {**one, "unjudged": 0, "prompts": 10, "samples": 10 * k, "by_task": {}, **changes}


def rows(measured: dict) -> list[list[str]]:
    console = Console(file=io.StringIO(), width=120)
    console.print(evaluation_table(measured))
    lines = [line for line in console.file.getvalue().splitlines() if line[0] in "│┃"]
    return [[cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in lines]


def test_before_and_after_stand_side_by_side():
    before = figures(0.4, by_task={"a": figures(0.3), "b": figures(0.5)})
    after = figures(0.8, by_task={"a": figures(0.7), "b": figures(0.9)})
    assert rows({"before": before, "after": after}) == [
        ["", "before", "after"],
        ["pass@1", "0.400  [0.350, 0.450]", "0.800  [0.750, 0.850]"],
        ["pass@4", "0.900  [0.800, 0.950]", "0.900  [0.800, 0.950]"],
        ["cons@4", "0.600  [0.500, 0.700]", "0.600  [0.500, 0.700]"],
        ["pass@1 a", "0.300  [0.250, 0.350]", "0.700  [0.650, 0.750]"],
        ["pass@1 b", "0.500  [0.450, 0.550]", "0.900  [0.850, 0.950]"],
        ["format", "0.50", "0.50"],
        ["mean length", "21.2", "21.2"],
        ["truncated", "0.00", "0.00"],
    ]


def test_one_task_needs_no_rows_of_its_own_and_unjudged_samples_are_told():
    shown = rows({"evaluation": figures(0.4, k=1, unjudged=3, by_task={"all": figures(0.4)})})
    names = [name for name, _ in shown]
    assert names == ["", "pass@1", "cons@1", "format", "mean length", "truncated", "could not be judged"]
    assert shown[-1] == ["could not be judged", "3"]


def test_measures_that_do_not_match_leave_a_gap():
    """As after `resume=RUN evaluation.k=8`, or with other data."""
    before = figures(0.4, k=4, by_task={"a": figures(0.3)})
    after = figures(0.8, k=8, by_task={"b": figures(0.9)})
    shown = {name: cells for name, *cells in rows({"before": before, "after": after})}
    assert shown["pass@4"][1] == "" and shown["pass@8"][0] == "" and shown["pass@8"][1].startswith("0.900")
    assert shown["pass@1 a"][1] == "" and shown["pass@1 b"][0] == ""
