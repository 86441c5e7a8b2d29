"""What rewards give to written cases, before a run depends on them."""

from __future__ import annotations

from rich.table import Table

from r1lit.data.sources import read_rows
from r1lit.rewards.cases import CaseResult, try_cases
from r1lit.settings import UserError
from r1lit.stages.settings import Run
from r1lit.stages.setup import load_model, reward_pool
from r1lit.stages.summary import Summary


class CasesFailedError(UserError):
    """A reward did not give what a case expects."""


def try_reward(run: Run, summary: Summary) -> None:
    """Judge the rows of ``data.path`` (prompt, completion, expected, other columns) by the chosen rewards.

    Raises:
        CasesFailedError: where a case failed, after all of them were shown.
    """
    rows = [row for source in run.data.training_sources.values() for row in read_rows(source, run.data.limit)]
    problems = [f"{row.origin}: {': '.join(row.problem)}" for row in rows if row.problem]
    if problems:
        raise UserError("\n".join(problems))
    _, tokenizer = load_model(run.model)
    with reward_pool(run) as pool:
        try:
            results = try_cases(pool, [row.columns for row in rows], tokenizer.encode)
        except ValueError as error:
            raise UserError(str(error)) from error
    summary.console.print(case_table(results, list(run.rewards)))
    failed = sum(result.passed is False for result in results)
    summary.add(cases=len(results), passed=sum(result.passed is True for result in results), failed=failed)
    if failed:
        raise CasesFailedError(f"{failed} of {len(results)} cases failed")
    summary.say(f"{len(results)} cases, none failed")


def case_table(results: list[CaseResult], rewards: list[str]) -> Table:
    """One row a case: what each reward gave, what was expected, pass or fail."""
    table = Table(header_style="bold")
    table.add_column("#", justify="right")
    table.add_column("completion", max_width=48, overflow="ellipsis", no_wrap=True)
    for name in rewards:
        table.add_column(name, justify="right")
    table.add_column("expected")
    table.add_column("")
    verdicts = {True: "[green]pass[/]", False: "[red]FAIL[/]", None: ""}
    for number, result in enumerate(results, 1):
        table.add_row(
            str(number),
            " ".join(result.completion.split()).replace("[", r"\["),
            *(_cell(result, name) for name in rewards),
            ", ".join(f"{name} {_number(value)}" for name, value in result.expected.items()),
            verdicts[result.passed],
        )
        for name, message in result.failures.items():
            table.add_row("", f"[red]{name}: {message}[/]".replace("\n", " "))
    return table


def _cell(result: CaseResult, name: str) -> str:
    if name in result.failures:
        return "[red]failed[/]"
    return _number(result.given[name]) if name in result.given else "-"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"
