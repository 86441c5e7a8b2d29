from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from r1lit.rewards.format import format
from r1lit.rewards.judge import Judge, columns_of
from r1lit.rewards.spec import RewardSettings

CONF = Path(__file__).parents[2] / "conf" / "reward"
GOOD = "<think> a </think> <answer> b </answer>"


@pytest.mark.parametrize(
    ("text", "whole", "partial"),
    [
        (GOOD, 1.0, 1.0),
        ("\n<think>a</think><answer>b</answer>\n", 1.0, 1.0),
        ("<think>a\nb</think>\n\n<answer>1\n2</answer>", 1.0, 1.0),
        ("", 0.0, 0.0),
        ("4", 0.0, 0.0),
        ("<think> </think> <answer> b </answer>", 0.0, 0.25),
        ("<think> a </think> <answer> </answer>", 0.0, 0.25),
        ("<think> a </think>", 0.0, 0.25),
        ("<answer> b </answer>", 0.0, 0.25),
        ("<answer> b </answer> <think> a </think>", 0.0, 0.5),
        ("so " + GOOD, 0.0, 0.75),
        (GOOD + " and more", 0.0, 0.75),
        ("<think> a </think> well <answer> b </answer>", 0.0, 0.75),
        (GOOD + GOOD, 0.0, 0.0),
        ("<think> a <think> a </think> <answer> b </answer>", 0.0, 0.25),
        ("<think> a </think> <answer> b </answer> <answer> c </answer>", 0.0, 0.25),
        ("<think> a <answer> b </answer> </think>", 0.0, 0.5),
        ("</think> a <think> <answer> b </answer>", 0.0, 0.25),
    ],
)
def test_r1_zero(text: str, whole: float, partial: float):
    assert format([text]) == [whole]
    assert format([text], partial=True) == [partial]


@pytest.mark.parametrize(
    ("text", "whole", "partial"),
    [
        ("<think> a </think> It is 4.", 1.0, 1.0),
        ("<think> a </think>", 0.0, 0.75),
        ("<think> </think> It is 4.", 0.0, 0.0),
        ("so <think> a </think> It is 4.", 0.0, 0.75),
        (GOOD, 0.0, 0.75),
        ("It is 4.", 0.0, 0.0),
        ("<think> a </think> 4 <think> b </think> 5", 0.0, 0.0),
    ],
)
def test_r1(text: str, whole: float, partial: float):
    assert format([text], style="r1") == [whole]
    assert format([text], style="r1", partial=True) == [partial]


@pytest.mark.parametrize(
    ("text", "whole", "partial"),
    [
        ("The sky is blue.", 1.0, 1.0),
        ("\n天空是蓝色的。\n", 1.0, 1.0),
        ("3 < 4 and 4 > 3", 1.0, 1.0),
        ("", 0.0, 0.0),
        (" \n", 0.0, 0.0),
        ("<think>", 0.0, 0.0),
        ("<think> </think> <answer> </answer>", 0.0, 0.0),
        ("<think> a </think> It is blue.", 0.0, 0.5),
        ("It is blue. </answer>", 0.0, 0.5),
        (GOOD, 0.0, 0.5),
    ],
)
def test_plain(text: str, whole: float, partial: float):
    assert format([text], style="plain") == [whole]
    assert format([text], style="plain", partial=True) == [partial]


def test_a_task_may_want_a_form_of_its_own():
    texts = [GOOD, "It is blue.", GOOD, "It is blue.", "<think> a </think> b", GOOD]
    tasks = ["arithmetic", "arithmetic", "fact", "fact", "math", None]
    own = {"fact": "plain", "math": "r1"}
    assert format(texts, task=tasks, by_task=own) == [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    assert format(texts, task=tasks) == format(texts, by_task=own) == [1.0, 0.0, 1.0, 0.0, 0.0, 1.0]
    assert format(texts, style="plain", task=tasks, by_task={"arithmetic": "r1_zero"}) == [1, 0, 0, 1, 0, 0]
    assert format([GOOD, "a"], partial=True, task=["fact", "fact"], by_task=own) == [0.5, 1.0]
    # A column that is no text names no task of the mapping.
    assert format([GOOD, GOOD], task=[["fact"], 3], by_task={"3": "plain"}) == [1.0, 0.0]


def test_as_configured_tasks_reach_it():
    values = yaml.safe_load((CONF / "format.yaml").read_text())["format"]
    group = {"completions": ["It is blue.", GOOD], "prompt": "q", "completion_ids": [[1]] * 2, "truncated": [False] * 2}
    columns = columns_of(group | {"columns": {"task": "fact"}})

    def judged(**changes):
        return Judge(RewardSettings(**values | changes).for_worker(), [])(columns, [0, 1]).values

    assert judged() == [0.0, 1.0]
    assert judged(by_task={"fact": "plain"}) == [1.0, 0.0]


def test_unknown_styles_are_named():
    with pytest.raises(ValueError, match="style='r1zero' is no format; did you mean r1_zero"):
        format([GOOD], style="r1zero")
    with pytest.raises(ValueError, match=r"by_task\.fact='plane' is no format; did you mean plain"):
        format([GOOD], by_task={"fact": "plane"})
    with pytest.raises(ValueError, match=r"by_task\.fact=None is no format"):
        format([GOOD], by_task={"fact": None})
