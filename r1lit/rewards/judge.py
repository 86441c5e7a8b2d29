"""Calling a reward and checking what it returns. Runs inside the worker, so it imports nothing heavy."""

from __future__ import annotations

import inspect
import math
import numbers
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from r1lit.rewards import targets
from r1lit.text.thinking import split

MESSAGE_LIMIT = 2000


@dataclass(frozen=True)
class Verdict:
    """What a reward gave to some rows.

    Attributes:
        values: one number a row; None where the reward does not apply to it or failed on it.
        reasons: why a row failed, by its position among the rows asked for.
        message: what to tell the user about the first failure.
    """

    values: list[float | None]
    reasons: dict[int, str] = field(default_factory=dict)
    message: str = ""

    @classmethod
    def failed(cls, count: int, reason: str, message: str) -> Verdict:
        """Every one of ``count`` rows failed for the same reason."""
        return cls([None] * count, dict.fromkeys(range(count), reason), message[-MESSAGE_LIMIT:])


class Judge:
    """A loaded reward, called with the arguments it takes.

    Args:
        spec: ``target``, ``keywords``, ``factory``, ``messages`` of its settings.
        paths: the plugin folders, for the error message of a misspelt target.
    """

    def __init__(self, spec: Mapping[str, Any], paths: list[str]):
        self._reward = targets.bind(targets.resolve(spec["target"], paths), spec["keywords"], spec["factory"])
        self._messages = spec["messages"]
        parameters = inspect.signature(self._reward).parameters.values()
        self._takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        # A keyword set in the configuration beats a column of the same name.
        bound = getattr(self._reward, "keywords", {})
        self._accepted = {p.name for p in named} - set(bound)
        self._bound = set(bound)
        self._required = [p.name for p in named if p.default is p.empty and p.name not in bound]

    def __call__(self, columns: Mapping[str, list[Any]], rows: list[int]) -> Verdict:
        """Judge some rows of a group; whatever the reward does short of dying becomes a verdict."""
        try:
            return check(self._reward(**self._arguments(columns, rows)), len(rows))
        except (Exception, SystemExit) as error:
            return Verdict.failed(len(rows), "exception", _describe(error))

    def _arguments(self, columns: Mapping[str, list[Any]], rows: list[int]) -> dict[str, list[Any]]:
        if missing := [name for name in self._required if name not in columns]:
            raise ValueError(
                f"the reward needs {', '.join(missing)}, but the rows have {', '.join(sorted(columns))}; "
                "add the column, map it in data.columns, or route the reward with `when`"
            )
        taken = [key for key in columns if key in self._accepted or (self._takes_all and key not in self._bound)]
        arguments = {key: [columns[key][row] for row in rows] for key in taken}
        return _as_messages(arguments) if self._messages else arguments


def check(values: Any, count: int) -> Verdict:
    """Turn what a reward returned into a verdict on ``count`` rows.

    >>> check([1, True, None, float("nan"), "x"], 5).reasons
    {3: 'nan', 4: 'wrong_type'}
    >>> check([1.0], 2).message
    'the reward returned 1 values for 2 completions; return one for each'
    """
    values = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(values, list | tuple):
        message = f"the reward returned {_short(values)}; return a list with one number or None for each completion"
        return Verdict.failed(count, "wrong_type", message)
    if len(values) != count:
        message = f"the reward returned {len(values)} values for {count} completions; return one for each"
        return Verdict.failed(count, "wrong_count", message)
    reasons = {row: reason for row, value in enumerate(values) if (reason := _fault(value))}
    message = f"the reward returned {_short(values[min(reasons)])}; return a finite number or None" if reasons else ""
    kept = [None if value is None or row in reasons else float(value) for row, value in enumerate(values)]
    return Verdict(kept, reasons, message)


def columns_of(group: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Every column a reward may take, one entry a completion: the data set's, and the contract's own, which win."""
    completions = group["completions"]
    halves = [split(text) for text in completions]
    return {key: [value] * len(completions) for key, value in group["columns"].items()} | {
        "prompts": [group["prompt"]] * len(completions),
        "completions": completions,
        "completion_ids": group["completion_ids"],
        "truncated": group["truncated"],
        "thoughts": [half.thought for half in halves],
        "answers": [half.answer for half in halves],
    }


def _as_messages(arguments: dict[str, list[Any]]) -> dict[str, list[Any]]:
    wrapped: dict[str, Callable[[Any], Any]] = {
        "prompts": lambda prompt: [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt,
        "completions": lambda text: [{"role": "assistant", "content": text}],
    }
    return {
        key: [wrapped[key](item) for item in items] if key in wrapped else items for key, items in arguments.items()
    }


def _fault(value: Any) -> str | None:
    if value is None:
        return None
    # numpy's booleans and torch's scalars are no numbers.Real, but they say what they are through item().
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, numbers.Real):
        return "wrong_type"
    return None if math.isfinite(value) else "nan"


def _describe(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if len(frames) > 1 else ""
    return f"{type(error).__name__}: {error}{place}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
