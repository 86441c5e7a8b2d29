from __future__ import annotations

import pytest

from r1lit.text.forms import clean, fill, form_problem, parse_form

R1_ZERO = "<think> {thought} </think> <answer> {answer} </answer>"
R1 = "<think>\n{thought}\n</think>\n\n{summary}"


@pytest.mark.parametrize("form", [R1_ZERO, R1, "{thought} #### {answer}"])
def test_what_is_filled_in_comes_back(form):
    text = fill(form, "2 and {answer}\n\nmakes 4", "4 {thought}")
    assert parse_form(form, text) == ("2 and {answer}\n\nmakes 4", "4 {thought}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<think> a </think>",
        "<think> a </think> <answer> </answer>",
        "<think>  </think> <answer> 4 </answer>",
        "so <think> a </think> <answer> 4 </answer>",
        "<think> a </think> <answer> 4 </answer> yes",
        "<think> a </think> hm <answer> 4 </answer>",
        "<think> a <think> b </think> <answer> 4 </answer>",
        "<think> a </think> <answer> 4 </answer> <answer> 5 </answer>",
    ],
)
def test_another_form_is_none(text):
    assert parse_form(R1_ZERO, text) is None


def test_white_space_may_differ():
    assert parse_form(R1_ZERO, "\n<think>a\nb</think><answer>\n4</answer> \n") == ("a\nb", "4")
    assert parse_form(R1, "<think> a </think> It is 4.") == ("a", "It is 4.")
    assert parse_form(R1, "<think> a </think> <answer> 4 </answer>") is None


@pytest.mark.parametrize(
    "form",
    ["", "{answer} {thought}", "{thought}", "{thought} a {answer} {summary}", "<b>{thought}</b>", "{thought} {answer}"],
)
def test_forms_that_cannot_be_read_back(form):
    assert form_problem(form)


@pytest.mark.parametrize("form", [R1_ZERO, R1])
def test_sound_forms(form):
    assert form_problem(form) is None


def test_cleaning():
    assert clean("  a  b \r\n\r\n\r\n\r\n  - c   d\t\n</answer><|endoftext|>") == "a b\n\n  - c d"
    assert clean("x < y and y > z, <b>") == "x < y and y > z, <b>"
    assert clean("<think></think>") == ""
    assert clean(clean("a  b\n\n\n\nc")) == clean("a  b\n\n\n\nc")
