"""Rows of a source under the column names that the rest of r1lit knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from r1lit.data.asking import UnusableRowError, asked
from r1lit.data.files import Row, read_path
from r1lit.data.generators import generate, reasoning_gym
from r1lit.data.hub import read_copy, read_hub
from r1lit.data.settings import SourceSettings

RESERVED = ("prompts", "completions", "completion_ids", "thoughts", "answers", "truncated")
"""What rewards are given by these names is the run's own; a data set's column would be lost behind it."""

Derive = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Gives a row of another form the columns that r1lit knows, made from those it has."""


def read_rows(source: SourceSettings, limit: int | None = None, derive: Derive | None = None) -> Iterator[Row]:
    """The rows of a source, columns renamed and constants added; a row that cannot be used says why.

    Args:
        source: what to read.
        limit: rows read at most.
        derive: makes columns that rows of another form lack, ``prompt`` among them, once columns are renamed.

    Raises:
        DataError: where the source cannot be read at all.
    """
    limits = [bound for bound in (source.limit, limit) if bound is not None]
    for row in islice(_read(source), min(limits, default=None)):
        yield row if row.problem else _shape(row, source, derive)


def _read(source: SourceSettings) -> Iterator[Row]:
    if source.hub is not None:
        read = read_copy if source.path else read_hub
        return read(source.path or source.hub, source.subset, source.split, source.files)
    if source.path is not None:
        return read_path(source.path, source.subset, source.split)
    if source.reasoning_gym is not None:
        name, rows = source.reasoning_gym, reasoning_gym(source.reasoning_gym, source.size, source.seed, source.params)
    else:
        name, rows = source.generator, generate(source.generator, source.size, source.seed, source.params)
    return (Row(columns, f"{name}:{number}") for number, columns in enumerate(rows, start=1))


def _shape(row: Row, source: SourceSettings, derive: Derive | None) -> Row:
    has = f"the row has {', '.join(row.columns) or 'no columns'}"
    for name, original in source.columns.items():
        if original not in row.columns:
            return _spoilt(
                row, "missing column", f"no column {original}, which columns={{{name}: {original}}} asks for; {has}"
            )
    renamed = set(source.columns.values())
    kept = {name: value for name, value in row.columns.items() if name not in renamed}
    mapped = {name: row.columns[original] for name, original in source.columns.items()}
    columns = kept | mapped | source.constants
    try:
        columns = asked(columns, source.ask, source.choices, source.chat)
    except UnusableRowError as error:
        return _spoilt(row, error.reason, str(error))
    columns = dict(derive(columns)) if derive else columns
    if "prompt" not in columns:
        return _spoilt(row, "missing column", f"no column prompt; {has}; set columns={{prompt: NAME}}")
    if source.split_by not in columns:
        return _spoilt(row, "missing column", f"no column {source.split_by}, which split_by names; {has}")
    reserved = [name for name in RESERVED if name in columns]
    if reserved:
        remedy = f"rename it: columns={{gold_{reserved[0]}: {reserved[0]}}}"
        return _spoilt(row, "reserved column", f"{reserved[0]} is what rewards call something of the run; {remedy}")
    return replace(row, columns=columns)


def _spoilt(row: Row, reason: str, detail: str) -> Row:
    return replace(row, problem=(reason, detail))
