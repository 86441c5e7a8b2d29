"""What rewards give to written cases, before a run depends on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from r1lit.data.files import Row, read_path
from r1lit.data.settings import DataSettings
from r1lit.models.loading import ModelSettings, load_tokenizer
from r1lit.rewards.cases import CaseResult, try_cases
from r1lit.settings import ConfigError, UserError
from r1lit.stages.run import Run
from r1lit.stages.setup import reward_pool
from r1lit.stages.summary import Summary


class CasesFailedError(UserError):
    """A reward did not give what a case expects."""


def try_reward(run: Run, summary: Summary) -> None:
    """Judge the rows of ``data.path`` (prompt, completion, expected, other columns) by the chosen rewards.

    Raises:
        CasesFailedError: where a case failed, after all of them were shown.
        ConfigError: where the tokenizer or a reward cannot be loaded.
        UserError: with every row that is no case, by file and line.
    """
    rows = list(read_path(run.data.path, run.data.subset, run.data.split))[: run.data.limit]
    if problems := [f"{row.origin}: {problem}" for row in rows if (problem := _problem(row))]:
        raise UserError("\n".join([f"{len(problems)} of {len(rows)} cases cannot be read:", *problems]))
    cases = [_case(row, run.data) for row in rows]
    encode = encoder(run.model)
    with reward_pool(run) as pool:
        try:
            results = try_cases(pool, cases, encode)
        except ValueError as error:
            raise UserError(f"{run.data.path}: the cases cannot be tried:\n{error}") from error
    summary.console.print(case_table(results, list(run.rewards)))
    failed = sum(result.passed is False for result in results)
    summary.add(cases=len(results), passed=sum(result.passed is True for result in results), failed=failed)
    if failed:
        raise CasesFailedError(f"{failed} of {len(results)} cases failed")
    summary.say(f"{len(results)} cases, none failed")


def encoder(settings: ModelSettings) -> Callable[[str, bool], list[int]]:
    """What makes the token ids that a run would hand to the rewards: of a completion, and whether it is truncated.

    Raises:
        ConfigError: with the reason, where the tokenizer cannot be loaded.
    """
    try:
        tokenizer = load_tokenizer(settings)
    except (OSError, ValueError) as error:
        raise ConfigError([str(error)]) from error
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]

    def encode(completion: str, truncated: bool) -> list[int]:
        return tokenizer.encode(completion, add_special_tokens=False) + ([] if truncated else end)

    return encode


def _problem(row: Row) -> str | None:
    if row.problem:
        return ": ".join(row.problem)
    completion, expected = row.columns.get("completion", ""), row.columns.get("expected")
    if not isinstance(completion, str):
        return f"completion={completion!r} is no text; write what the model would, in quotes"
    for value in expected.values() if isinstance(expected, Mapping) else [expected]:
        if not isinstance(value, int | float | None):
            return f"expected={expected!r} is no number; write one, null, or {{reward: number}}"
    return None


def _case(row: Row, settings: DataSettings) -> Mapping[str, Any]:
    """The row's columns under their new names. What a run itself provides, as ``truncated``, a case may state."""
    columns = dict(row.columns)
    mapped = {name: columns.pop(original) for name, original in settings.columns.items() if original in columns}
    return columns | mapped | settings.constants


def case_table(results: list[CaseResult], rewards: list[str]) -> Table:
    """One row a case: what each reward gave, what was expected, pass or fail."""
    table = Table(header_style="bold")
    table.add_column("#", justify="right")
    table.add_column("completion", max_width=48, overflow="ellipsis", no_wrap=True)
    for name in rewards:
        table.add_column(name, justify="right")
    table.add_column("expected", no_wrap=True)
    table.add_column("", no_wrap=True)
    verdicts = {True: "[green]pass[/]", False: "[red]FAIL[/]", None: ""}
    for number, result in enumerate(results, 1):
        table.add_row(
            str(number),
            escape(" ".join(result.completion.split())),
            *(_cell(result, name) for name in rewards),
            "\n".join(f"{name} {_number(value)}" for name, value in result.expected.items()),
            verdicts[result.passed],
        )
        for name, message in result.failures.items():
            table.add_row("", f"[red]{escape(f'{name}: {message}'.replace(chr(10), ' '))}[/]")
    return table


def _cell(result: CaseResult, name: str) -> str:
    if name in result.failures:
        return "[red]failed[/]"
    return _number(result.given[name]) if name in result.given else "-"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"
