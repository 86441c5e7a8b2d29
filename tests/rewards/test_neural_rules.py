"""Where rewards that are models may judge."""

from __future__ import annotations

import json

import numpy
import pytest

from r1lit.rewards.code_tests import suite_of
from r1lit.rewards.instructions import instructions
from r1lit.rewards.neural_rules import is_neural, is_verifier, neural_problem
from r1lit.rewards.spec import RewardSettings

ANSWERED = {"task": "math", "answer": "42"}
OPEN = {"task": "general", "answer": None}


def reward(target: str, **options) -> RewardSettings:
    return RewardSettings.model_validate({"_target_": target} | options)


def chosen(**options) -> dict[str, RewardSettings]:
    return {
        "accuracy": reward("r1lit.rewards.accuracy.accuracy"),
        "format": reward("r1lit.rewards.format.format"),
        "preference": reward("r1lit.rewards.neural.Preference", model="somewhere", **options),
    }


def test_a_model_on_a_row_that_a_rule_can_verify_is_refused():
    problem = neural_problem(chosen(), ANSWERED)
    for part in (
        "reward.preference is a model",
        "task is math",
        "the rule accuracy",
        "reward.preference.when=",
        "reward.preference.on_reasoning=true",
    ):
        assert part in problem


@pytest.mark.parametrize(
    "options",
    [{"on_reasoning": True}, {"when": {"task": "general"}}, {"weight": 0.0}, {"weight": 0.0, "on_reasoning": True}],
)
def test_it_may_where_it_is_asked_for_or_routed_away_or_a_measure(options):
    assert neural_problem(chosen(**options), ANSWERED) is None


@pytest.mark.parametrize("options", [{"weight": 0.5, "schedule": [[0.9, 0], [0.9, 1]]}, {"weight": -1.0}])
def test_a_late_or_negative_weight_trains_too(options):
    assert neural_problem(chosen(**options), ANSWERED) is not None


@pytest.mark.parametrize("columns", [OPEN, {"task": "general"}, {"answer": None}, {}])
def test_rows_without_an_answer_are_its_own(columns):
    assert neural_problem(chosen(), columns) is None


def test_rules_that_do_not_apply_verify_nothing():
    rewards = chosen() | {"accuracy": reward("r1lit.rewards.accuracy.accuracy", when={"task": "math"})}
    assert neural_problem(rewards, ANSWERED) is not None
    assert neural_problem(rewards, {"task": "general", "answer": "a gold reply"}) is None


def test_the_form_alone_verifies_nothing():
    rewards = chosen()
    del rewards["accuracy"]
    assert neural_problem(rewards, ANSWERED) is None


def test_other_verifiers_and_other_models_are_known():
    verl = reward("r1lit.rewards.adapters.Verl", function="mine.compute_score")
    judge = reward("mine.judge", neural=True)
    assert neural_problem({"score": verl, "judge": judge}, {"ground_truth": "42"}) is not None
    assert neural_problem({"score": verl, "judge": judge}, {"truth": "42"}) is None
    own = reward("mine.right")
    assert neural_problem({"accuracy": own, "judge": judge}, ANSWERED) is not None
    assert is_verifier("accuracy", own) and not is_verifier("accuracy", judge) and not is_verifier("right", own)
    assert not is_neural(reward("r1lit.rewards.neural_rules.is_neural"))
    assert "neural" not in judge.keywords and "on_reasoning" not in judge.keywords


CASES = [{"input": "1", "output": "2"}]
INSTRUCTED = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}


@pytest.mark.parametrize(
    ("target", "judged", "unjudged"),
    [
        ("r1lit.rewards.code.Code", {"tests": CASES}, {"tests": None, "answer": "4"}),
        ("r1lit.rewards.code.Code", {"public_test_cases": json.dumps(CASES)}, {"tests": numpy.array([])}),
        ("r1lit.rewards.code.Code", {"private_test_cases": json.dumps(CASES), "tests": None}, {"metadata": "{}"}),
        ("r1lit.rewards.instructions.instructions", INSTRUCTED, {"instruction_id_list": [], "kwargs": []}),
        ("r1lit.rewards.instructions.instructions", INSTRUCTED, {"answer": "4", "kwargs": [{}]}),
    ],
)
def test_programs_and_instructions_are_verified_where_the_row_has_what_they_need(target, judged, unjudged):
    rewards = {"rule": reward(target), "judge": reward("mine.judge", neural=True)}
    assert "the rule rule verifies" in neural_problem(rewards, judged)
    assert neural_problem(rewards, unjudged) is None
    assert neural_problem(rewards | {"rule": reward(target, when={"task": "other"})}, judged) is None
    # The rules themselves say the same of these rows.
    if target.endswith("Code"):
        names = ("tests", "public_test_cases", "private_test_cases", "metadata")
        suites = [suite_of(*(row.get(name) for name in names)) for row in (judged, unjudged)]
        assert suites[0] is not None and suites[1] is None
    else:
        told = [[row.get(name) for row in (judged, unjudged)] for name in INSTRUCTED]
        assert instructions(["a", "b"], *told) == [1.0, None]
