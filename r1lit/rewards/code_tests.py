"""Test cases of programs, in the forms that data sets have them in."""

from __future__ import annotations

import base64
import binascii
import io
import json
import pickle
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

LARGEST = 1 << 29
"""Bytes that packed test cases may unpack to."""

_UNREADABLE = (binascii.Error, zlib.error, pickle.UnpicklingError, EOFError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True)
class Suite:
    """What a program is tried on.

    Attributes:
        cases: inputs and the outputs wanted for them.
        function: the function that is called, each line of an input being an argument as JSON; None where the input is
            the program's standard input.
    """

    cases: tuple[tuple[str, str], ...]
    function: str | None = None

    def passed(self, given: str, wanted: str) -> bool:
        """True where an output is the one wanted."""
        return same_value(given, wanted) if self.function else same_lines(given, wanted)


def same_lines(given: str, wanted: str) -> bool:
    """True where two outputs agree line by line, space at the ends aside, or number by number.

    >>> same_lines("1.0 2\\n", "1 2.00"), same_lines("YES", "yes"), same_lines("1\\n2", "1 2")
    (True, False, False)
    """
    left, right = ([line.strip() for line in text.strip().split("\n")] for text in (given, wanted))
    return len(left) == len(right) and all(
        one == two or _same_numbers(one, two) for one, two in zip(left, right, strict=True)
    )


def same_value(given: str, wanted: str) -> bool:
    """True where two JSON texts have equal values.

    >>> same_value("[1, 2.0]", "[1.0,2]"), same_value('"1"', "1"), same_value("oops", "1")
    (True, False, False)
    """
    if given.strip() == wanted.strip():
        return True
    try:
        return bool(json.loads(given) == json.loads(wanted))
    except (ValueError, RecursionError):
        return False


def suite_of(
    tests: Any = None, public: str | None = None, private: str | None = None, metadata: Any = None
) -> Suite | None:
    """The tests of a row; None where it has none.

    Args:
        tests: a list of cases with ``input`` and ``output``, or lists ``inputs`` and ``outputs`` with an optional
            ``fn_name`` (as APPS, TACO and verl have them), or either as JSON.
        public: LiveCodeBench's ``public_test_cases``, JSON.
        private: its ``private_test_cases``: JSON, or JSON pickled, compressed and in base64.
        metadata: its ``metadata``, JSON, whose ``func_name`` is the function to call.

    Raises:
        ValueError: where they cannot be read.
    """
    if tests is not None:
        return _own(json.loads(tests) if isinstance(tests, str) else tests)
    if public is None and private is None:
        return None
    return _livecodebench(public or "[]", private or "[]", metadata if isinstance(metadata, str) else "{}")


def suite_problem(columns: Mapping[str, Any]) -> str | None:
    """Why a program could not be tried on the tests of a row with these columns, or None where it can.

    >>> suite_problem({"tests": [{"input": "1"}]})
    'the tests cannot be used: a test is no object with input and output; mend them'
    """
    names = ("tests", "public_test_cases", "private_test_cases", "metadata")
    try:
        found = suite_of(*(columns.get(name) for name in names))
    except ValueError as error:
        return f"the tests cannot be used: {error}; mend them"
    remedy = "add them or route the reward with `when`"
    return None if found else f"there are no tests, which the code reward needs; {remedy}"


@lru_cache(maxsize=4)
def _livecodebench(public: str, private: str, metadata: str) -> Suite | None:
    cases = [*json.loads(public), *json.loads(unpacked(private))]
    return _made(cases, json.loads(metadata or "{}").get("func_name"))


def unpacked(private: str) -> str:
    """The JSON of LiveCodeBench's private tests. They come as a pickle, of which nothing but a text is accepted: a
    pickle may run any program.

    Raises:
        ValueError: where they are anything else.
    """
    if private.lstrip()[:1] in ("[", "{"):
        return private
    try:
        expander = zlib.decompressobj()
        data = expander.decompress(base64.b64decode(private, validate=True), LARGEST)
        if expander.unconsumed_tail or not expander.eof:
            raise ValueError(f"the private tests are cut off, or unpack to more than {LARGEST >> 20} MiB")
        text = _TextOnly(io.BytesIO(data)).load()
    except _UNREADABLE as error:
        raise ValueError(f"the private tests cannot be unpacked: {type(error).__name__}: {error}") from error
    if not isinstance(text, str):
        raise ValueError(f"the private tests hold a {type(text).__name__}, and no text")
    return text


class _TextOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"they ask for {module}.{name}, and a text needs nothing")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("they refer to something outside")


def _own(given: Any) -> Suite | None:
    if isinstance(given, Mapping):
        inputs, outputs = given.get("inputs"), given.get("outputs")
        if inputs is None or outputs is None or len(inputs) != len(outputs):
            raise ValueError("tests have no inputs and outputs of one length; give both, or a list of cases")
        cases = [{"input": one, "output": two} for one, two in zip(inputs, outputs, strict=True)]
        return _made(cases, given.get("fn_name"))
    return _made(list(given), None)


def _made(cases: Sequence[Mapping[str, Any]], function: str | None) -> Suite | None:
    if not all(isinstance(case, Mapping) and {"input", "output"} <= set(case) for case in cases):
        raise ValueError("a test is no object with input and output")
    pairs = tuple((_input(case["input"], function), _json(case["output"])) for case in cases)
    return Suite(pairs, function or None) if pairs else None


def _input(given: Any, function: str | None) -> str:
    if function and isinstance(given, list | tuple):
        return "\n".join(map(json.dumps, given))
    return _json(given)


def _json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _same_numbers(one: str, two: str) -> bool:
    left, right = one.split(), two.split()
    if len(left) != len(right):
        return False
    try:
        return all(Decimal(a) == Decimal(b) for a, b in zip(left, right, strict=True))
    except InvalidOperation:
        return False
