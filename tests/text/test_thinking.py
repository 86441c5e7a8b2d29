from __future__ import annotations

import pytest

from r1lit.text.thinking import Answered, split

CASES = {
    "r1-zero": ("<think>a b</think> <answer>4</answer>", "a b", "4", True),
    "r1": ("<think>a b</think>\nIt is 4.", "a b", "It is 4.", False),
    "opened by the template": ("a b</think> 4", "a b", "4", False),
    "no thinking, tag": ("<answer>4</answer>", None, "4", True),
    "no thinking, no tag": (" 4 ", None, "4", False),
    "answer inside the thinking only": (
        "<think>it is <answer>4</answer></think>",
        "it is <answer>4</answer>",
        None,
        False,
    ),
    "unclosed thinking": ("<think>it is <answer>4</answer>", "it is <answer>4</answer>", None, False),
    "thinking reopened": (
        "<think>a</think> <answer>4</answer> <think>no",
        "a</think> <answer>4</answer> <think>no",
        None,
        False,
    ),
    "last answer tag counts": ("<think>a</think><answer>3</answer> <answer>4</answer>", "a", "4", True),
    "last answer tag unclosed": ("<think>a</think><answer>3</answer> <answer>4", "a", None, True),
    "answer never opened": ("<think>a</think> 4</answer>", "a", None, False),
    "empty answer": ("<think>a</think><answer> </answer>", "a", None, True),
    "two blocks": ("<think>a</think> 3 <think>b</think> 4", "a</think> 3 <think>b", "4", False),
    "nothing": ("", None, None, False),
    "answer before the thinking": ("<answer>3</answer><think>a</think> 4", "a", "4", False),
}


@pytest.mark.parametrize(("text", "thought", "answer", "tagged"), CASES.values(), ids=CASES.keys())
def test_split(text: str, thought: str | None, answer: str | None, tagged: bool):
    assert split(text) == Answered(thought, answer, tagged)
