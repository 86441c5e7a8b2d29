from __future__ import annotations

import ast
from itertools import islice

import pytest
import reasoning_gym

from r1lit.data.arithmetic import WORDINGS, chain_sum_expression, generate
from r1lit.data.splits import hash_fraction


def evaluated(expression: str) -> int:
    """The value of a chain by Python's own parser, an oracle that shares nothing with the generator."""

    def value(node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int(number)):
                return number
            case ast.BinOp(left, ast.Add(), right):
                return value(left) + value(right)
            case ast.BinOp(left, ast.Sub(), right):
                return value(left) - value(right)
        raise AssertionError(ast.dump(node))

    return value(ast.parse(expression, mode="eval").body)


def chain_sum_rows(count: int, seed: int) -> list[dict]:
    digits = {"min_digits": 1, "max_digits": 1}
    return list(reasoning_gym.create_dataset("chain_sum", min_terms=3, max_terms=5, size=count, seed=seed, **digits))


def test_answers_are_right_and_the_question_holds_the_expression():
    rows = list(generate(500, seed=1))
    for row in rows:
        assert row["answer"] == str(evaluated(row["expression"]))
        spaced = row["expression"].replace("+", " + ").replace("-", " - ")
        wordings = WORDINGS[row["language"]]
        assert row["prompt"] in {wording.format(way) for wording in wordings for way in (spaced, row["expression"])}
        assert row["task"] == "arithmetic"
    assert any(row["answer"].startswith("-") for row in rows)
    compact = sum(row["expression"] in row["prompt"] for row in rows) / len(rows)
    # Four standard errors of 500 draws.
    assert compact == pytest.approx(0.25, abs=0.08)


def test_hand_worked_chain():
    row = next(row for row in generate(20_000, seed=3, terms=(3, 3)) if row["expression"] == "3-9+2")
    assert row["answer"] == "-4"


def test_every_wording_and_length_is_used():
    rows = list(generate(2000, seed=2, terms=(3, 6)))
    lengths = [len(row["expression"]) // 2 + 1 for row in rows]
    assert {length: lengths.count(length) > 400 for length in range(3, 7)} == dict.fromkeys(range(3, 7), True)
    for language, wordings in WORDINGS.items():
        for wording in wordings:
            start, end = wording.split("{}")
            asked = [r for r in rows if r["language"] == language and r["prompt"].endswith(end)]
            assert any(row["prompt"].startswith(start) for row in asked), wording


def test_same_seed_same_rows_and_another_seed_others():
    assert list(generate(50, seed=4)) == list(generate(50, seed=4))
    assert list(generate(50, seed=4)) != list(generate(50, seed=5))


def test_rows_do_not_depend_on_how_many_are_drawn():
    assert list(islice(generate(1000, seed=6), 10)) == list(generate(10, seed=6))


def test_no_expression_crosses_the_split_whatever_its_language_or_wording():
    train = {row["expression"] for row in generate(3000, seed=7, terms=(3, 3), split="train")}
    test = {row["expression"] for row in generate(3000, seed=8, terms=(3, 3), split="test")}
    assert not train & test
    assert all(hash_fraction(expression) < 0.1 for expression in test)
    # 4,000 chains of three terms: of the tenth held out, nearly all turn up in 3,000 draws.
    assert 300 < len(test) < 500

    foreign = {chain_sum_expression(row["question"]) for row in chain_sum_rows(3000, seed=9)}
    assert foreign & train, "the two generators must write the same chain the same way"
    assert foreign & test
    held_out = {expression for expression in foreign if hash_fraction(expression) < 0.1}
    assert not held_out & train
    assert not (foreign - held_out) & test


def test_chain_sum_expressions_evaluate_to_reasoning_gyms_answers():
    for row in chain_sum_rows(300, seed=10):
        assert str(evaluated(chain_sum_expression(row["question"]))) == row["answer"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"languages": ["en", "zk"]}, "'zk' is no arithmetic language.*there are: en, zh"),
        ({"languages": []}, "name en, zh or both"),
        ({"split": "tests"}, "'tests'.*did you mean test"),
        ({"terms": (1, 3)}, r"terms=\(1, 3\).*2 terms or more"),
        ({"terms": (5, 3)}, r"terms=\(5, 3\)"),
    ],
)
def test_mistakes_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        list(generate(1, seed=0, **arguments))


def test_another_wording_is_no_chain_sum():
    with pytest.raises(ValueError, match="What is 3 \\+ 4"):
        chain_sum_expression("What is 3 + 4?")
