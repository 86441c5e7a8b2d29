from __future__ import annotations

import base64
import json
import os
import pickle
import zlib
from pathlib import Path

import pytest
import yaml

from r1lit.rewards import code_tests
from r1lit.rewards.code import Code, last_program
from r1lit.rewards.code_tests import Suite, same_lines, same_value, suite_of, suite_problem, unpacked
from r1lit.rewards.pool import RewardPool
from r1lit.rewards.spec import RewardSettings
from r1lit.settings import ConfigError
from r1lit.types import Group, Prompt

CONF = Path(__file__).parents[2] / "conf" / "reward" / "code.yaml"
ADD = [
    {"input": "1 2\n", "output": "3\n", "testtype": "stdin"},
    {"input": "5 5\n", "output": "10", "testtype": "stdin"},
]
MAX = [{"input": "[1, 3, 2]\n0", "output": "3", "testtype": "functional"}]
MORE = [{"input": "[]\n7", "output": "7", "testtype": "functional"}]
RIGHT = "a, b = map(int, input().split())\nprint(a + b)"
LUCKY = "input()\nprint(3)"


def packed(value) -> str:
    """As LiveCodeBench packs its private tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


def answer(program: str) -> str:
    return f"<think> Perhaps ```python\n{LUCKY}\n``` </think> So:\n```python\n{program}\n```\nThat is it."


@pytest.fixture(scope="module")
def code():
    return Code(seconds=2)


@pytest.mark.parametrize(
    ("program", "value"),
    [
        (RIGHT, 1.0),
        ("def main():\n    print(sum(map(int, stdin.read().split())))\nif __name__ == '__main__':\n    main()", 1.0),
        ("print(float(sum(map(int, input().split()))))", 1.0),
        (f"{RIGHT}\nprint()", 1.0),
        (LUCKY, 0.0),
        (f"{RIGHT}\nprint(1)", 0.0),
        (f"{RIGHT}\nsys.exit(1)", 0.0),
        ("1 / 0", 0.0),
        ("def f(:", 0.0),
        ("", 0.0),
        ("while True: pass", 0.0),
        ("x = bytearray(1 << 40)", 0.0),
        ("print(open('/etc/passwd').read())", 0.0),
    ],
)
def test_programs_are_run_on_their_input(code, program, value):
    assert code([answer(program)], tests=[ADD]) == [value]


@pytest.mark.parametrize(
    ("program", "value"),
    [
        ("class Solution:\n    def top(self, items: List[int], floor: int):\n        return max([*items, floor])", 1.0),
        ("class Solution:\n    def top(self, items, floor):\n        print('x')\n        return max(items)", 0.0),
        ("class Solution:\n    def other(self, items, floor):\n        return 3", 0.0),
        ("def top(items, floor): return sorted([*items, floor])[-1]", 1.0),
        ("def top(items, floor): return {3}", 0.0),
        ("print(3)", 0.0),
    ],
)
def test_functions_are_called(code, program, value):
    columns = {
        "public_test_cases": [json.dumps(MAX)],
        "private_test_cases": [packed(json.dumps(MORE))],
        "metadata": [json.dumps({"func_name": "top"})],
    }
    assert code([answer(program)], **columns) == [value]


def test_shares_are_paid_where_asked_for():
    partial = Code(seconds=2, partial=True)
    fail = [{"input": "x", "output": "1"}]
    assert partial([answer(LUCKY), answer(RIGHT), answer("1/0")], tests=[ADD] * 3) == [0.5, 1.0, 0.0]
    assert partial([answer(RIGHT)], tests=[[*fail, *ADD]]) == [pytest.approx(2 / 3)]


def test_rows_without_tests_or_programs(code):
    assert code([answer(RIGHT)] * 3, tests=[None, [], ADD]) == [None, None, 1.0]
    assert code(["no program", f"<think> ```python\n{RIGHT}\n```", ""], tests=[ADD] * 3) == [0.0, 0.0, 0.0]
    assert code(["whatever"], tests=[ADD], answers=[f"```py\n{RIGHT}\n```"]) == [1.0]
    assert code(["whatever"]) == [None]


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("```python\na\n```", "a"),
        ("```\na\n```", "a"),
        ("```Python3\na\nb\n```\n", "a\nb"),
        ("  ```py\n  a\n  ```", "  a"),
        ("```python\na\n```\n```python\nb\n```", "b"),
        ("```python\na\n```\n```text\nout\n```", "a"),
        ("```python\na\n```\nand\n```cpp\nint x;\n```", "a"),
        ("```python\na\n```\n```python\ncut off", "a"),
        ("```python\ncut off\n```python\nb\n```", "b"),
        ("a", None),
        ("```python\na", None),
        ("```cpp\na\n```", None),
        ("use `a` or ``` b ```", None),
        ("", None),
    ],
)
def test_the_last_block_counts(text, program):
    assert last_program(text) == program


@pytest.mark.parametrize(
    ("given", "wanted", "same"),
    [
        ("1\n2\n", "1\n2", True),
        ("1 \n 2", "1\n2", True),
        ("\n1\n\n", "1", True),
        ("1\n\n2", "1\n2", False),
        ("1 2", "1\n2", False),
        ("1", "1.0", True),
        ("0.1", "0.10", True),
        ("0.30000000000000004", "0.3", False),
        ("50000000000000000", "50000000000000001", False),
        ("1e1 x", "10 x", False),
        ("YES", "Yes", False),
        ("nan", "nan", True),
        ("snan 1", "1 1", False),
        ("", "", True),
        ("", "1", False),
    ],
)
def test_outputs_are_compared_by_lines_and_numbers(given, wanted, same):
    assert same_lines(given, wanted) is same


@pytest.mark.parametrize(
    ("given", "wanted", "same"),
    [
        ("[1,2]", "[1, 2]", True),
        ("[1.0]", "[1]", True),
        ('"a"', '"b"', False),
        ("null", "[]", False),
        ("", "1", False),
        ("[" * 100_000, "1", False),
        ("7" * 10_000, "7" * 10_000, True),
        ("7" * 10_000, "8" * 10_000, False),
    ],
)
def test_values_are_compared_as_json(given, wanted, same):
    assert same_value(given, wanted) is same


@pytest.mark.parametrize(
    "given",
    [
        ADD,
        json.dumps(ADD),
        {"inputs": ["1 2\n", "5 5\n"], "outputs": ["3\n", "10"]},
        json.dumps({"inputs": ["1 2\n", "5 5\n"], "outputs": ["3\n", 10], "fn_name": None}),
    ],
)
def test_tests_are_read_in_several_forms(given):
    assert suite_of(given) == Suite((("1 2\n", "3\n"), ("5 5\n", "10")))


def test_calls_are_read_in_several_forms():
    given = {"inputs": [[[1, 3], 0]], "outputs": [3], "fn_name": "top"}
    assert suite_of(given) == suite_of(json.dumps(given)) == Suite((("[1, 3]\n0", "3"),), "top")
    metadata = json.dumps({"func_name": "top"})
    assert suite_of(None, json.dumps(MAX), packed(json.dumps(MORE)), metadata) == Suite(
        (("[1, 3, 2]\n0", "3"), ("[]\n7", "7")), "top"
    )
    assert suite_of(None, json.dumps(ADD), json.dumps(ADD), "{}").function is None
    assert len(suite_of(None, json.dumps(ADD), json.dumps(ADD), None).cases) == 4
    assert suite_of() is None and suite_of(None, "[]", None, None) is None


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("/tmp/r1lit-harmed",)


@pytest.mark.parametrize(
    ("private", "said"),
    [
        (packed(Harmful()), r"they ask for (posix|os)\.mkdir, and a text needs nothing"),
        (packed([1, 2]), "hold a list, and no text"),
        (packed(b"x"), "they ask for _codecs.encode|hold a bytes"),
        (base64.b64encode(zlib.compress(b"not a pickle")).decode(), "cannot be unpacked"),
        (base64.b64encode(b"not zlib").decode(), "cannot be unpacked: error"),
        (packed("[]")[:-8], "cannot be unpacked|cut off"),
        ("not base64!", "cannot be unpacked: Error"),
    ],
)
def test_packed_tests_may_hold_nothing_but_text(private, said):
    with pytest.raises(ValueError, match=said):
        unpacked(private)
    assert not Path("/tmp/r1lit-harmed").exists()


def test_packed_tests_may_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(code_tests, "LARGEST", 1 << 20)
    assert unpacked(packed("x" * 1000)) == "x" * 1000
    with pytest.raises(ValueError, match="unpack to more than 1 MiB"):
        unpacked(packed("x" * (2 << 20)))


@pytest.mark.parametrize("tests", [[{"input": "1"}], ["1"], {"inputs": ["1"], "outputs": []}, {"inputs": ["1"]}])
def test_tests_that_cannot_be_read_are_told_of(tests):
    with pytest.raises(ValueError, match=r"give both|is no object with input and output"):
        suite_of(tests)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"tests": ADD}, None),
        ({"public_test_cases": json.dumps(ADD), "private_test_cases": packed("[]"), "metadata": "{}"}, None),
        ({}, "there are no tests, which the code reward needs"),
        ({"tests": []}, "there are no tests"),
        ({"tests": "[{"}, "the tests cannot be used"),
        ({"private_test_cases": packed([1])}, "hold a list, and no text; mend them"),
    ],
)
def test_what_is_wrong_with_tests_is_told_while_the_data_loads(columns, said):
    problem = suite_problem(columns)
    assert problem is None if said is None else said in problem


def shipped(**changes):
    (values,) = yaml.safe_load(CONF.read_text()).values()
    return {"code": RewardSettings.model_validate({**values, **changes})}


def test_the_shipped_reward_runs_in_the_workers():
    prompt = Prompt((1,), "Add.", {"tests": ADD, "task": "code"})
    texts = [answer(RIGHT), answer(LUCKY), answer("while True: pass"), "nothing"]
    bad = Prompt((1,), "Add.", {"tests": [{"input": "1"}]})
    with RewardPool(shipped(seconds=1)) as pool:
        good, broken = pool.score([Group(prompt, [[1]] * 4, texts, [False] * 4), Group(bad, [[1]], texts[:1], [False])])
    assert good.values == {"code": [1.0, 0.0, 0.0, 0.0]} and not good.failures
    # What is wrong with the tests is no fault of the program.
    assert broken.values == {"code": [None]} and broken.failures["code"] == {"exception": 1}


def test_without_bubblewrap_the_reward_is_refused_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"reward\.code: .*no bwrap on PATH; install bubblewrap") as error:
        RewardPool(shipped()).start()
    assert "sandbox=none_unsafe" in str(error.value)
    with RewardPool(shipped(sandbox="none_unsafe")) as pool:
        prompt = Prompt((1,), "Add.", {"tests": ADD})
        (score,) = pool.score([Group(prompt, [[1]], [answer(RIGHT)], [False])])
    assert score.values == {"code": [1.0]}


@pytest.mark.parametrize(
    ("changes", "said"), [({"sandbox": "none"}, "sandbox='none' does not exist"), ({"program_mb": 10}, "program_mb=10")]
)
def test_what_cannot_work_is_told_before_the_run(changes, said):
    with pytest.raises(ConfigError, match=said):
        RewardPool(shipped(**changes)).start()
