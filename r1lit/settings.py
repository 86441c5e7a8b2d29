"""Typed settings: one pydantic class a config section, every mistake of every section reported together."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

JOINT = "\n"
"""Between the mistakes that one validator reports together."""


class Settings(BaseModel):
    """Base of all settings: immutable, and an unknown key is a mistake rather than a silent no-op."""

    model_config = ConfigDict(extra="forbid", frozen=True)


SIGNALLED = 128
"""Exit codes above this are the numbers of signals above it."""


class UserError(Exception):
    """An error whose message says what to do: the command shows it without a traceback.

    Attributes:
        exit_code: what the command then exits with.
    """

    exit_code = 1


class ConfigError(UserError, ValueError):
    """All the mistakes of a configuration, one line each."""

    exit_code = 2

    def __init__(self, problems: Iterable[str]):
        self.problems = list(problems)
        count = len(self.problems)
        heading = f"{count} mistake{'s' if count != 1 else ''} in the configuration:"
        super().__init__("\n".join([heading, *(f"  - {problem}" for problem in self.problems)]))


def quoted(text: str) -> str:
    r"""A text as one value of an override, whatever is in it: in Hydra a backslash counts only before a quote.

    >>> print(quoted('say "yes"'), quoted("a\\b"))
    "say \"yes\"" "a\b"
    """
    return '"' + re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + (found[2] and '\\"'), text) + '"'


def suggest(name: str, known: Iterable[str]) -> str:
    """The names nearest to a misspelt one, as the end of an error message.

    >>> suggest("acuracy", ["accuracy", "format"])
    'did you mean accuracy?'
    >>> suggest("zzz", ["format", "accuracy"])
    'there are: accuracy, format'
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known) or 'none'}"


def parse(sections: Mapping[str, type[Settings]], values: Mapping[str, Any]) -> dict[str, Settings]:
    """Build each section's settings from plain dictionaries.

    Raises:
        ConfigError: with every mistake of every section, each naming its key, value and rule.
    """
    parsed, problems = {}, []
    for section, kind in sections.items():
        try:
            parsed[section] = kind.model_validate(values.get(section) or {})
        except ValidationError as error:
            # A validator that looks at several settings at once finds several mistakes at once.
            problems += [part for item in error.errors() for part in _line(section, kind, item).split(JOINT)]
    if problems:
        raise ConfigError(problems)
    return parsed


def _line(section: str, kind: type[Settings], item: Mapping[str, Any]) -> str:
    key = ".".join([section, *(str(part) for part in item["loc"])])
    if item["type"] == "extra_forbidden" and (owner := _owner(kind, item["loc"][:-1])):
        return f"{key} is no setting; {suggest(str(item['loc'][-1]), owner.model_fields)}"
    if item["type"] == "value_error":
        return f"{key}: {item['ctx']['error']}" if item["loc"] else str(item["ctx"]["error"])
    if item["type"] == "missing":
        return f"{key} is missing"
    return f"{key}={item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}"


def _owner(kind: type[Settings], path: Iterable[Any]) -> type[Settings] | None:
    """The settings that a path within others leads to; None where it leads elsewhere."""
    for part in path:
        field = kind.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, Settings)):
            return None
        kind = field.annotation
    return kind
