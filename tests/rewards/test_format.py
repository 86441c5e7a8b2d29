from __future__ import annotations

import pytest

from r1lit.rewards.format import format

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


def test_unknown_style():
    with pytest.raises(ValueError, match="did you mean r1_zero"):
        format([GOOD], style="r1zero")
