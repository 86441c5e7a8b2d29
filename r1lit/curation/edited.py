"""Demonstrations after people have worked on them: every line checked before any is used."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from r1lit.curation.demonstrations import OWN, Row
from r1lit.curation.rejudging import rejudge
from r1lit.curation.selection import KEPT
from r1lit.data.files import Row as SourceRow
from r1lit.data.files import read_path
from r1lit.rewards.pool import RewardPool
from r1lit.settings import UserError, suggest
from r1lit.text.encoding import check_messages
from r1lit.text.forms import parse_form

EDITED, APPROVED = "edited", "approved"
USED = (KEPT, EDITED, APPROVED)
"""What a status says of a row that is to be used: as it was, changed, or right whatever the rule says."""

DROPPED = "dropped"
SHOWN = 50


class EditedError(UserError):
    """An edited file has lines that cannot be used."""


@dataclass(frozen=True)
class Edited:
    """An edited file that is sound.

    Attributes:
        rows: the demonstrations.
        statuses: how many rows have which status; those that are dropped under ``dropped``.
        unjudged: rows about which the rule has nothing to say.
    """

    rows: list[Row]
    statuses: Mapping[str, int]
    unjudged: int


def check_edited(path: str, form: str, rewards: RewardPool, metric: str) -> Edited:
    """Read an edited ``candidates.jsonl``; rows whose status begins with ``dropped`` are left out.

    A row that is used has a prompt, a response of the stated form, and an answer that the rule does not call wrong,
    unless its status is ``approved``; no two are the same.

    Raises:
        EditedError: with every line that cannot be used and why.
        DataError: where the file cannot be read at all.
    """
    rows = list(read_path(path))
    problems: dict[int, str] = {}
    first: dict[tuple[str, str], str] = {}
    used: list[int] = []
    for place, row in enumerate(rows):
        problem = _problem(row, form)
        if problem is None and row.columns["status"] in USED:
            key = (json.dumps(row.columns["prompt"], sort_keys=True), row.columns["response"].strip())
            problem = f"it repeats {first[key]}; drop one" if key in first else None
            first.setdefault(key, row.origin)
            used.append(place)
        if problem is not None:
            problems[place] = problem
    asked = [place for place in used if place not in problems]
    values = rejudge(rewards, metric, [_question(rows[place]) for place in asked])
    verdicts = dict(zip(asked, values, strict=True))
    for place, value in verdicts.items():
        if value is not None and value <= 0.5 and rows[place].columns["status"] != APPROVED:
            problems[place] = (
                f"the answer is wrong by rule ({metric}={value:g}, answer={rows[place].columns.get('answer')!r}); mend "
                f"the response, or set its status to {APPROVED}"
            )
    _refuse(path, rows, problems)
    statuses = Counter(_kind(row.columns["status"]) for row in rows)
    return Edited([_row(rows[place]) for place in used], dict(statuses), list(verdicts.values()).count(None))


def _problem(row: SourceRow, form: str) -> str | None:
    if row.problem:
        return ": ".join(row.problem)
    columns = row.columns
    status = columns.get("status")
    if not isinstance(status, str) or _kind(status) not in (*USED, DROPPED):
        return f"status={status!r} is unknown; {suggest(str(status), (*USED, DROPPED))}"
    if status not in USED:
        return None
    prompt, response = columns.get("prompt"), columns.get("response")
    if not isinstance(prompt, str):
        try:
            check_messages(prompt)
        except ValueError as error:
            return str(error)
    elif not prompt.strip():
        return "the prompt is empty"
    if not isinstance(response, str) or not response.strip():
        return f"response={response!r} is no text; write one, or set the status to {DROPPED}"
    if parse_form(form, response) is None:
        return f"the response is not of the form {form!r} (collect.form): {response[:60]!r}"
    return None


def _kind(status: str) -> str:
    return DROPPED if status == DROPPED or status.startswith(f"{DROPPED}:") else status


def _question(row: SourceRow) -> tuple[Any, Mapping[str, Any], str]:
    columns = {name: value for name, value in row.columns.items() if name not in ("prompt", "response", "status")}
    return row.columns["prompt"], columns, row.columns["response"]


def _row(row: SourceRow) -> Row:
    scalars = {name: value for name, value in row.columns.items() if not isinstance(value, list | dict)}
    return {name: row.columns.get(name) for name in OWN} | scalars | {"response": row.columns["response"].strip()}


def _refuse(path: str, rows: list[SourceRow], problems: Mapping[int, str]) -> None:
    if not rows:
        raise EditedError(f"{path} has no rows; give the candidates.jsonl of a run, edited")
    if problems:
        lines = [f"  {rows[place].origin}: {problems[place]}" for place in sorted(problems)]
        more = [f"  and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        heading = f"{len(lines)} of {len(rows)} lines cannot be used; mend them, or set their status to {DROPPED}:"
        raise EditedError("\n".join([heading, *lines[:SHOWN], *more]))
    if not any(row.columns["status"] in USED for row in rows):
        raise EditedError(f"{path}: all {len(rows)} rows are dropped; set the status of some to {KEPT}")
