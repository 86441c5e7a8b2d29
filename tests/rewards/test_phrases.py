from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from r1lit.rewards.judge import Judge, columns_of
from r1lit.rewards.phrases import phrases
from r1lit.rewards.spec import RewardSettings

CONF = Path(__file__).parents[2] / "conf" / "reward"


@pytest.mark.parametrize(
    ("text", "required", "forbidden", "answer", "response"),
    [
        ("The capital is Paris.", ["Paris"], ["Rome"], 1.0, 1.0),
        ("The capital is PARIS.", ["paris"], [], 1.0, 1.0),
        ("Paris or Rome.", ["Paris"], ["rome"], 0.0, 0.0),
        ("The capital is Rome.", ["Paris"], None, 0.0, 0.0),
        ("I  cannot\n help.", ["I cannot help"], None, 1.0, 1.0),
        ("I cannot help.", ["  I\tcannot help "], None, 1.0, 1.0),
        ("还需要帮助吗?", ["还需要帮助吗？"], None, 1.0, 1.0),
        ("wash it, dry it", ["wash", "dry"], None, 1.0, 1.0),
        ("wash it", ["wash", "dry"], None, 0.0, 0.0),
        ("anything", [], ["mud"], 1.0, 1.0),
        ("with mud", [], ["mud"], 0.0, 0.0),
        # one phrase as a text is not taken for its letters
        ("sirap", "paris", None, 0.0, 0.0),
        ("Paris", "paris", "rome", 1.0, 1.0),
        # the parts
        ("<think> Rome? </think> Paris", ["Paris"], ["Rome"], 1.0, 0.0),
        ("<think> Paris </think> I do not know", ["Paris"], None, 0.0, 1.0),
        ("<think> a </think> <answer> Paris </answer>", ["Paris"], None, 1.0, 1.0),
        ("<think> a </think> Paris <answer> b </answer>", ["Paris"], None, 0.0, 1.0),
        # no answer at all
        ("<think> Paris", ["Paris"], None, 0.0, 0.0),
        ("<think> a </think>", [], ["mud"], 0.0, 0.0),
        ("<answer> Paris", ["Paris"], None, 0.0, 0.0),
        ("", [], ["mud"], 0.0, 0.0),
        # nothing to judge by
        ("Paris", None, None, None, None),
        ("Paris", None, ["Paris"], None, None),
        ("Paris", [], None, None, None),
        ("Paris", [], [], None, None),
    ],
)
def test_by_hand(text, required, forbidden, answer, response):
    assert phrases([text], [required], [forbidden]) == [answer]
    assert phrases([text], [required], [forbidden], part="response") == [response]


def test_rows_are_judged_each_by_its_own_phrases():
    texts = ["a", "b", "a", "b"]
    assert phrases(texts, [["a"], ["a"], None, ["b"]], [None, None, None, ["b"]]) == [1.0, 0.0, None, 0.0]


def test_answers_that_were_cut_out_already_are_taken():
    assert phrases(["x", "y"], [["gold"], ["gold"]], answers=["gold", None]) == [1.0, 0.0]


def test_cells_of_a_table_may_be_arrays():
    assert phrases(["a b", "a"], [np.array(["a", "b"])] * 2, [np.array([])] * 2) == [1.0, 0.0]


@pytest.mark.parametrize("column", ["required", "forbidden"])
def test_an_empty_phrase_is_a_mistake(column):
    with pytest.raises(ValueError, match=r"an empty phrase among \['a', ' '\]"):
        phrases(["a"], **{"required": [["a"]]} | {column: [["a", " "]]})


def test_unknown_parts_are_named():
    with pytest.raises(ValueError, match="part='answers' is no part of a completion; did you mean answer"):
        phrases(["a"], [["a"]], part="answers")


@pytest.mark.parametrize(
    ("name", "task", "part"),
    [("fact", "fact", "answer"), ("helpful", "general", "answer"), ("harmless", "safety", "response")],
)
def test_the_shipped_rewards_are_measures_of_their_task(name, task, part):
    (key, values), *rest = yaml.safe_load((CONF / f"{name}.yaml").read_text()).items()
    assert (key, rest) == (name, [])
    settings = RewardSettings(**values)
    assert settings.weight == 0.0
    assert settings.applies({"task": task})
    assert not settings.applies({"task": "arithmetic"}) and not settings.applies({})
    columns = {"required": ["cannot"], "forbidden": ["at night"], "task": task}
    completions = ["I cannot.", "<think> at night </think> I cannot.", "At night.", "<think> I cannot."]
    group = {"completions": completions, "columns": columns, "prompt": "q", "completion_ids": [[1]] * 4}
    verdict = Judge(settings.for_worker(), [])(columns_of(group | {"truncated": [False] * 4}), [0, 1, 2, 3])
    assert verdict.values == [1.0, 1.0 if part == "answer" else 0.0, 0.0, 0.0]
    assert not verdict.reasons


def test_rows_without_the_column_are_told_of():
    settings = RewardSettings(_target_="r1lit.rewards.phrases.phrases")
    group = {"completions": ["a"], "columns": {}, "prompt": "q", "completion_ids": [[1]], "truncated": [False]}
    assert "the reward needs required" in Judge(settings.for_worker(), [])(columns_of(group), [0]).message
