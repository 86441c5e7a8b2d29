"""Finding gold answers that no completion could match, while the data loads."""

from __future__ import annotations

import atexit
import functools
import pickle
from collections.abc import Mapping
from typing import Any

from r1lit.rewards.accuracy import UNVERIFIED, choose_verifier, gold_text, read_choice
from r1lit.rewards.expressions import LENGTH_LIMIT, is_prose, parse_expression
from r1lit.rewards.numbers import parse_number
from r1lit.rewards.spec import RewardSettings
from r1lit.rewards.supervisor import Lane

SECONDS = 3.0
MEMORY_MB = 2048


def gold_problem(columns: Mapping[str, Any]) -> str | None:
    r"""Why the accuracy reward could not judge a row with these columns, or None where it can.

    Expressions are parsed in a process of its own, which is killed after ``SECONDS``.

    >>> gold_problem({"answer": "42"}), gold_problem({"answer": "Paris", "verifier": "number"})
    (None, "answer='Paris' is no number; mend it, or set the row's verifier to text or math")
    """
    if columns.get("verifier") == UNVERIFIED:
        return None
    if columns.get("answer") is None:
        return "there is no answer, which the accuracy reward needs; add it or route the reward with `when`"
    shown = f"answer={str(columns['answer'])[:80]!r}"
    if not isinstance(columns["answer"], str | int | float) or isinstance(columns["answer"], bool):
        return f"{shown} is a {type(columns['answer']).__name__}; give one text or number"
    gold = gold_text(columns["answer"])
    if not gold:
        return f"{shown} is empty"
    if len(gold) > LENGTH_LIMIT:
        return f"{shown}... has {len(gold)} characters, but at most {LENGTH_LIMIT} are compared"
    try:
        verifier = choose_verifier(gold, columns.get("task"), columns.get("verifier"))
    except ValueError as error:
        return str(error)
    return _PROBLEMS[verifier](gold, shown)


class Parses:
    """1.0 where math-verify can read an expression; lives in the worker."""

    def __init__(self):
        # What math-verify imports takes a second or more, which is not the first expression's to answer for.
        parse_expression("1")

    def __call__(self, completions: list[str]) -> list[float]:
        return [float(bool(parse_expression(text))) for text in completions]


def _number(gold: str, shown: str) -> str | None:
    mended = "mend it, or set the row's verifier to text or math"
    return None if parse_number(gold) else f"{shown} is no number; {mended}"


def _choice(gold: str, shown: str) -> str | None:
    return None if read_choice(gold) else f"{shown} names no choice; give one letter, A to J"


def _math(gold: str, shown: str) -> str | None:
    if parse_number(gold):
        return None
    remedy = "mend it, or set the row's verifier to text"
    if is_prose(gold):
        return f"{shown} is no mathematical expression; {remedy}"
    payload = {"prompt": "", "columns": {}, "completions": [gold], "completion_ids": [[]], "truncated": [False]}
    (verdict,) = _lane().judge(pickle.dumps(payload), [("gold", [0])])
    if verdict.reasons:
        return f"{shown} could not be read: {verdict.message}; {remedy}"
    return None if verdict.values[0] else f"{shown} cannot be parsed as mathematics; {remedy}"


_PROBLEMS = {"number": _number, "choice": _choice, "math": _math, "text": lambda gold, shown: None}


@functools.cache
def _lane() -> Lane:
    settings = RewardSettings.model_validate(
        {"_target_": f"{__name__}.Parses", "timeout": SECONDS, "memory_mb": MEMORY_MB}
    )
    lane = Lane({"rewards": {"gold": settings.for_worker()}, "paths": []})
    atexit.register(lane.stop)
    return lane
