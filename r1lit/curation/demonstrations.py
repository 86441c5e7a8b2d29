"""Demonstrations as rows: one fixed set of columns, one type a column, written whole or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from r1lit.curation.samples import write_whole
from r1lit.curation.selection import Candidate
from r1lit.settings import UserError

DEMONSTRATIONS, CANDIDATES = "demonstrations.jsonl", "candidates.jsonl"

OWN = ("prompt", "response", "task", "language", "answer", "source", "status", "judged_by", "pass_rate", "reward")
"""The columns that every row has; behind them one a reward, ``rewards/<name>``, and the prompt row's other ones."""

ORIGINAL = "prompt_"
"""Put before a column of the prompt's row that has the name of one of `OWN`."""

LARGEST = 2**63 - 1
"""The largest whole number that a column of whole numbers holds."""

Row = dict[str, Any]


def row_of(candidate: Candidate, response: str, status: str | None = None) -> Row:
    """A candidate as a row."""
    sample, columns = candidate.sample, candidate.prompt.columns
    own = {
        "prompt": candidate.prompt.raw,
        "response": response,
        "task": columns.get("task"),
        "language": columns.get("language") or candidate.language,
        "answer": columns.get("answer"),
        "source": sample.source,
        "status": status or candidate.status,
        "judged_by": sample.judged_by,
        "pass_rate": candidate.pass_rate,
        "reward": sample.reward,
    }
    return own | {f"rewards/{name}": value for name, value in sample.rewards.items()} | others(columns)


def others(columns: Mapping[str, Any]) -> Row:
    """The scalar columns of a row that have no place of their own among `OWN`."""
    kept = {name: value for name, value in columns.items() if name not in ("prompt", "task", "language", "answer")}
    return {
        f"{ORIGINAL}{name}" if name in OWN or name.startswith("rewards/") else name: value
        for name, value in kept.items()
        if value is None or isinstance(value, str | int | float)
    }


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as JSONL that ``datasets`` loads: all columns in every row, one type a column.

    Readers infer a column's type from the beginning of a file, so the first row with something in a column that is
    still empty moves to the front; the others keep their order.
    """
    names = list(dict.fromkeys([*OWN, *(name for row in rows for name in row)]))
    whole = [{name: _finite(row.get(name)) for name in names} for row in rows]
    forms = {name: _form([row[name] for row in whole if row[name] is not None]) for name in names}
    shaped = (
        {name: None if value is None else forms[name](value) for name, value in row.items()}
        for row in _leading(whole, names)
    )
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in shaped))


def mixed_prompts(prompts: Iterable[Any]) -> str | None:
    """What is wrong with prompts of which some are texts and others chat messages: a table's column has one type."""
    kinds = {isinstance(prompt, str) for prompt in prompts}
    if len(kinds) < 2:
        return None
    return "some prompts are texts and others lists of chat messages, which one file cannot hold; collect them apart"


def require_one_kind(prompts: Iterable[Any]) -> None:
    """Raises:
    UserError: where prompts are of two kinds.
    """
    if problem := mixed_prompts(prompts):
        raise UserError(problem)


def _finite(value: Any) -> Any:
    """The value, or None where JSON has no word for it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _form(values: Sequence[Any]) -> Callable[[Any], Any]:
    """What brings the values of one column to one type: their own where they agree, else text."""
    kinds = {type(value) for value in values}
    if kinds == {int, float}:
        return float
    too_large = kinds == {int} and any(abs(value) > LARGEST for value in values)
    return _text if len(kinds) > 1 or too_large else lambda value: value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _leading(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    missing, front = set(names), []
    for place, row in enumerate(rows):
        if filled := {name for name in missing if row[name] is not None}:
            front.append(place)
            missing -= filled
    ahead = set(front)
    return [rows[place] for place in front] + [row for place, row in enumerate(rows) if place not in ahead]
