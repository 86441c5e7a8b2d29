"""Judging mathematical expressions with math-verify, more strictly than it does by itself.

Parsing and comparing may take any time and memory (``9^{9^{9}}``, a huge binomial), and math-verify's own time-outs are
signals that do not stop its C libraries: call these functions only in a process that may be killed.
"""

from __future__ import annotations

import functools
import logging
import re
from typing import Any

# More is no answer, and the grammar's time grows steeply with the length.
LENGTH_LIMIT = 1000
# Commands that stand for work still to be done.
_OPERATORS = re.compile(r"\\(?:int|iint|oint|sum|prod|lim|binom|tbinom|dbinom|det)(?![a-zA-Z])|!|\bd/d|\\frac\{d\}")
_EQUALS = re.compile(r"(?<![<>!\\=])=(?!=)")
# What an equation may define: a letter, with an index or an argument.
_DEFINED = re.compile(r"\\?[^\W\d_]+(?:_\{?\w+\}?)?'*(?:\(\s*[^\W\d_](?:\s*,\s*[^\W\d_])*\s*\))?")
_NAMES = {"sqrt", "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "pi", "min", "max", "mod", "and", "or"}


def same_expression(gold: str, candidate: str, task: str = "") -> bool:
    """True where the candidate is worth the gold expression, and is an answer rather than the task once more.

    Wrong by rule, whatever they are worth: an equation that defines no symbol (``41=42``), unless the gold answer is
    one; an operator still to be carried out that the gold answer lacks; an expression that stands in the task
    (``task``), unless it is written as the gold answer is.
    """
    if len(candidate) > LENGTH_LIMIT or is_prose(candidate):
        return False
    if _compact(candidate) == _compact(gold):
        return True
    if restates(candidate, task) or (_OPERATORS.search(candidate) and not _OPERATORS.search(gold)):
        return False
    if not _EQUALS.search(gold) and "," not in candidate and ";" not in candidate:
        left, *rest = _EQUALS.split(candidate)
        if rest and not _DEFINED.fullmatch(left.strip()):
            return False
        candidate = rest[-1] if rest else candidate
    parsed, wanted = parse_expression(candidate), parse_expression(gold)
    from math_verify import verify

    return bool(parsed and wanted and verify(wanted, parsed, timeout_seconds=None))


def parse_expression(text: str) -> list[Any]:
    """What math-verify makes of one expression; empty where it makes nothing of it."""
    from math_verify import parse

    _silence()
    written = re.sub(r"\bsqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text.replace("**", "^")).replace("\\\\%", "\\%")
    return parse(f"${written}$", extraction_config=_extraction(), fallback_mode="no_fallback", parsing_timeout=None)


def restates(candidate: str, task: str) -> bool:
    """True where the candidate is a part of the task that asks for something to be worked out: it has an operator."""
    compact = _compact(candidate)
    return bool(re.search(r"[-+*/^(]|\\[a-zA-Z]", compact.lstrip("+-"))) and compact in _compact(task)


def is_prose(text: str) -> bool:
    """True where the text has two words outside of LaTeX commands, which math-verify reads as products of letters.

    >>> is_prose("hello world"), is_prose(r"2 \\sqrt{x} and \\sin x")
    (True, False)
    """
    bare = re.sub(r"\\(?:text|mathrm|operatorname|mathbf|begin|end)\s*\{[^{}]*\}|\\[a-zA-Z]+", " ", text)
    words = [word for word in re.findall(r"[^\W\d_]{3,}", bare) if word.lower() not in _NAMES]
    return len(words) > 1


def _compact(text: str) -> str:
    text = re.sub(r"\\left|\\right|\\displaystyle|\\[,;:! ]|[\s$]", "", text)
    return re.sub(r"\\[dt]frac", r"\\frac", text).replace("**", "^").replace("\\cdot", "*").replace("\\times", "*")


@functools.cache
def _extraction() -> list[Any]:
    from math_verify import LatexExtractionConfig

    return [LatexExtractionConfig(boxed_match_priority=0)]


@functools.cache
def _silence() -> None:
    # It warns that its time-outs are off, which is so by design.
    for module in ("parser", "grader"):
        logging.getLogger(f"math_verify.{module}").setLevel(logging.ERROR)
