"""Prompts put together from several columns, with the options of multiple choice among them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from r1lit.data.splits import hash_fraction
from r1lit.settings import Settings

LETTERS = "ABCDEFGHIJ"
"""What options are called: those that the accuracy reward reads."""

CHOICES = "choices"
"""The place of the options in a text."""

# Doubled braces are the braces themselves; what is no name, as in \boxed{}, stands as it is.
_PLACE = re.compile(r"\{\{([^{}]*)\}\}|\{([^\W\d][\w .-]*)\}")


_LITERAL = "; where ask means the braces themselves, double them"


class UnusableRowError(ValueError):
    """A row from which no prompt can be made.

    Attributes:
        reason: what to count it under.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


class ChoicesSettings(Settings):
    """The options of multiple choice.

    Attributes:
        options: the column that holds the list of them, or several columns that hold one each.
        right: the column that says which is right, by its letter or its number from 0; without one the first is.
        shuffle: put them in an order that a hash of them decides; always so where the first is the right one.
    """

    options: str | list[str]
    right: str | None = None
    shuffle: bool = False


def asked(
    columns: Mapping[str, Any], ask: str | Sequence[str] | None, choices: ChoicesSettings | None, chat: bool
) -> dict[str, Any]:
    """A row's columns with the prompt, and the letter of the right option, that its source asks for.

    Raises:
        UnusableRowError: where a column is missing, empty or of the wrong kind.
    """
    made = texts = dict(columns)
    if choices is not None:
        options, right = offered(columns, choices)
        made = columns | {"answer": LETTERS[right], "verifier": "choice"}
        texts = made | {CHOICES: render_options(options)}
    if ask is not None:
        made = made | {"prompt": first_filled([ask] if isinstance(ask, str) else ask, texts)}
    if chat and isinstance(made.get("prompt"), str):
        made = made | {"prompt": [{"role": "user", "content": made["prompt"]}]}
    return made


def ask_problem(ask: str | Sequence[str] | None, choices: ChoicesSettings | None) -> str | None:
    """What is wrong with how a source asks, whatever its rows hold.

    >>> ask_problem("What is 2+2?", None)
    "ask='What is 2+2?' has no place for a column; write its name in braces, such as {problem}"
    """
    texts = [ask] if isinstance(ask, str) else ask
    if texts is not None and not texts:
        return "ask=[] asks nothing; give a text, or several, with places for columns such as {problem}"
    for text in texts or []:
        if not places(text):
            return f"ask={text[:60]!r} has no place for a column; write its name in braces, such as {{problem}}"
        if choices and CHOICES not in places(text):
            return f"ask={text[:60]!r} has no place for the options; put {{{CHOICES}}} where they go"
    if choices and texts is None:
        return f"choices are given, but no text to ask them in; set ask to one with {{{CHOICES}}}"
    return None


def places(text: str) -> list[str]:
    """The names of the columns that a text has places for.

    >>> places(r"{problem} Put it in \\boxed{}, as in {{1}}. {Correct Answer}")
    ['problem', 'Correct Answer']
    """
    return [found[2] for found in _PLACE.finditer(text) if found[2]]


def filled(text: str, columns: Mapping[str, Any]) -> str:
    r"""The text with each ``{column}`` replaced; what the columns hold is not looked into.

    Raises:
        UnusableRowError: for a place whose column is missing, or holds what is no text or number.

    >>> filled(r"{problem} Put it in \boxed{}, as in {{it}}.", {"problem": "What is {it}?"})
    'What is {it}? Put it in \\boxed{}, as in {it}.'
    """
    return _PLACE.sub(lambda found: _text(columns, found[2], _LITERAL) if found[2] else f"{{{found[1]}}}", text)


def first_filled(texts: Sequence[str], columns: Mapping[str, Any]) -> str:
    """The first of several texts none of whose columns is empty, filled.

    Raises:
        UnusableRowError: where each has an empty column, and as `filled` does.

    >>> first_filled(["{question} Go on from {stub}", "{question}"], {"question": "2+2?", "stub": ""})
    '2+2?'
    """
    empty = ""
    for text in texts:
        empty = next((name for name in places(text) if not _text(columns, name, _LITERAL).strip()), "")
        if not empty:
            return filled(text, columns)
    raise UnusableRowError("empty column", f"{empty} is empty, and ask={texts[-1][:60]!r} needs it")


def offered(columns: Mapping[str, Any], choices: ChoicesSettings) -> tuple[list[str], int]:
    """The options in the order that they are asked in, and the place of the right one.

    Raises:
        UnusableRowError: where a row has too few or too many of them, or which is right cannot be told.
    """
    options = _options(columns, choices.options)
    right = 0 if choices.right is None else _place(columns, choices.right, len(options))
    if options.count(options[right]) > 1:
        raise UnusableRowError("repeated option", f"the right option, {options[right]!r}, is there twice")
    if choices.right is None or choices.shuffle:
        key = "\0".join(sorted(options))
        # The same in every process, and on every machine; where the options stood before has no say in it.
        order = sorted(range(len(options)), key=lambda place: hash_fraction(f"{key}\0{options[place]}"))
        options, right = [options[place] for place in order], order.index(right)
    return options, right


def render_options(options: Sequence[str]) -> str:
    r"""The options, a line each.

    >>> render_options(["3", "4"])
    'A) 3\nB) 4'
    """
    return "\n".join(f"{letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))


def _options(columns: Mapping[str, Any], named: str | Sequence[str]) -> list[str]:
    if isinstance(named, str):
        listed = _column(columns, named)
        if not isinstance(listed, list | tuple):
            raise UnusableRowError("bad options", f"{named}={_shorten(listed)} is no list of options")
        options = [_as_text(named, option).strip() for option in listed]
    else:
        options = [_text(columns, name).strip() for name in named]
    if not 2 <= len(options) <= len(LETTERS):
        raise UnusableRowError("bad options", f"there are {len(options)} options; 2 to {len(LETTERS)} have letters")
    if "" in options:
        raise UnusableRowError("bad options", f"option {options.index('') + 1} of {len(options)} is empty")
    return options


def _place(columns: Mapping[str, Any], name: str, count: int) -> int:
    """Where the right option is: a column holds its letter, or its number from 0."""
    value = _column(columns, name)
    text = str(value).strip()
    letter = re.fullmatch(r"\(?([A-Ja-j])\)?\.?", text)
    number = None if isinstance(value, bool) or not re.fullmatch(r"\d{1,2}", text) else int(text)
    place = LETTERS.index(letter[1].upper()) if letter else number
    if place is None or place >= count:
        raise UnusableRowError(
            "bad options",
            f"{name}={_shorten(value)} names none of {count} options; it is a letter, or a number from 0",
        )
    return place


def _text(columns: Mapping[str, Any], name: str, remedy: str = "") -> str:
    return _as_text(name, _column(columns, name, remedy))


def _as_text(name: str, value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise UnusableRowError("bad column", f"{name}={_shorten(value)} is a {type(value).__name__}, and no text")
    return str(value)


def _column(columns: Mapping[str, Any], name: str, remedy: str = "") -> Any:
    if name not in columns:
        has = ", ".join(columns) or "no columns"
        raise UnusableRowError("missing column", f"no column {name}, which is asked for; the row has {has}{remedy}")
    return columns[name]


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
