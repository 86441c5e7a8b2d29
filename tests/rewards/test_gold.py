from __future__ import annotations

import time

import pytest

from r1lit.rewards import gold
from r1lit.rewards.gold import gold_problem


@pytest.mark.parametrize(
    "columns",
    [
        {"answer": 42},
        {"answer": "-1/2"},
        {"answer": r"\frac{\pi}{2}"},
        {"answer": "x^2-1", "task": "math"},
        {"answer": "(B)"},
        {"answer": "Paris"},
        {"answer": "so\n#### 42", "task": "gsm8k"},
        {"answer": "A long \\boxed{\\sqrt{2}} solution", "task": "math"},
        {"answer": "9^{9^{9}}"},
        # another reward judges it
        {"verifier": "none"},
        {"answer": None, "verifier": "none"},
        {"answer": ["a", "b"], "verifier": "none"},
    ],
)
def test_sound(columns: dict):
    assert gold_problem(columns) is None


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({}, "there is no answer"),
        ({"answer": None}, "there is no answer"),
        ({"answer": "  "}, "is empty"),
        ({"answer": ["4", "5"]}, "is a list; give one text or number"),
        ({"answer": "Paris", "task": "arithmetic"}, "is no number"),
        ({"answer": "hello world", "task": "math"}, "is no mathematical expression"),
        ({"answer": r"\frac{", "task": "math"}, "cannot be parsed"),
        ({"answer": "Z", "verifier": "choice"}, "names no choice"),
        ({"answer": "4", "verifier": "numbr"}, "did you mean number"),
        ({"answer": "x" * 5000}, "5000 characters"),
    ],
)
def test_problems(columns: dict, problem: str):
    assert problem in gold_problem(columns)


def test_a_bomb_costs_the_time_limit_and_no_more(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(gold._lane()._setup["rewards"]["gold"], "timeout", 1.0)
    start = time.monotonic()
    assert "took longer" in gold_problem({"answer": r"\binom{1000000000}{500000000}", "task": "math"})
    assert time.monotonic() - start < 5
    # The next process has its libraries loaded before the clock starts: reading this takes 30 ms.
    assert gold_problem({"answer": "x^2-1", "task": "math"}) is None
