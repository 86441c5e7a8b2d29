"""Choosing a variant by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from r1lit.settings import suggest

Variant = TypeVar("Variant")


def pick(argument: str, name: str, table: Mapping[str, Variant]) -> Variant:
    """The table's entry of that name.

    Raises:
        ValueError: naming the argument, its value and the names there are.

    >>> pick("scale", "grup", {"group": 1, "batch": 2})
    Traceback (most recent call last):
    ...
    ValueError: scale='grup' is no variant; did you mean group?
    """
    if name not in table:
        raise ValueError(f"{argument}={name!r} is no variant; {suggest(str(name), table)}")
    return table[name]
