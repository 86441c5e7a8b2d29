from __future__ import annotations

import json

import pytest

from r1lit.data.settings import SourceSettings
from r1lit.data.sources import read_rows


@pytest.fixture
def source(tmp_path):
    def make(*rows, **settings):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return SourceSettings(path=str(path), **settings)

    return make


def columns(source, limit=None):
    return [row.columns for row in read_rows(source, limit)]


def test_columns_are_renamed_and_the_others_travel(source):
    made = source(
        {"question": "1+1", "solution": 2, "level": "easy", "prompt": "of another kind"},
        columns={"prompt": "question", "answer": "solution"},
        constants={"task": "math"},
    )
    assert columns(made) == [{"prompt": "1+1", "answer": 2, "level": "easy", "task": "math"}]


def test_two_names_may_be_exchanged(source):
    made = source({"prompt": "a", "answer": "b"}, columns={"prompt": "answer", "answer": "prompt"})
    assert columns(made) == [{"prompt": "b", "answer": "a"}]


@pytest.mark.parametrize(
    ("row", "settings", "reason", "said"),
    [
        ({"question": "q"}, {}, "missing column", "no column prompt; the row has question; set columns={prompt: NAME}"),
        ({}, {}, "missing column", "the row has no columns"),
        ({"prompt": "q"}, {"columns": {"answer": "gold"}}, "missing column", "columns={answer: gold} asks for"),
        ({"prompt": "q"}, {"split_by": "id"}, "missing column", "no column id, which split_by names"),
        ({"prompt": "q", "answers": []}, {}, "reserved column", "rename it: columns={gold_answers: answers}"),
    ],
)
def test_a_row_that_lacks_something_says_what(source, row, settings, reason, said):
    (bad,) = read_rows(source(row, **settings))
    assert bad.problem[0] == reason
    assert said in bad.problem[1]


def test_the_lower_limit_holds(source):
    made = source(*({"prompt": str(n)} for n in range(9)), limit=5)
    assert [len(columns(made, limit)) for limit in (None, 3, 7)] == [5, 3, 5]


def test_arithmetic_and_chain_sum_share_the_form_of_their_expressions():
    arithmetic = columns(SourceSettings(generator="arithmetic", size=50, params={"languages": ["zh"]}))
    params = {"min_terms": 3, "max_terms": 5, "min_digits": 1, "max_digits": 1}
    gym = columns(SourceSettings(reasoning_gym="chain_sum", size=50, params=params))
    assert len(arithmetic) == len(gym) == 50
    assert {row["language"] for row in arithmetic} == {"zh"}
    assert {row["task"] for row in gym} == {"chain_sum"}
    for row in [*arithmetic, *gym]:
        terms = row["expression"].replace("-", "+-").split("+")
        assert sum(map(int, terms)) == int(row["answer"])
        assert row["expression"] in row["prompt"].replace(" ", "")


def test_generated_rows_follow_their_seed():
    def drawn(seed):
        return columns(SourceSettings(reasoning_gym="gcd", size=5, seed=seed))

    assert drawn(1) == drawn(1) != drawn(2)
    assert [row.origin for row in read_rows(SourceSettings(reasoning_gym="gcd", size=2))] == ["gcd:1", "gcd:2"]
