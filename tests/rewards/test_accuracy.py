from __future__ import annotations

import time

import pytest

from r1lit.rewards.accuracy import accuracy, choose_verifier, gold_text, vote_key

THOUGHT = "<think> let me see </think> "

RIGHT = [
    # exact numbers
    ("number", "42", "42"),
    ("number", 42, "42"),
    ("number", "42", " +42. "),
    ("number", "-7", "−7"),
    ("number", "1234567", "1,234,567"),
    ("number", "1,234", "1234.0"),
    ("number", "0.5", "1/2"),
    ("number", "2/3", "4/6"),
    ("number", "1/3", r"\frac{1}{3}"),
    ("number", "-1/2", r"-\dfrac12"),
    ("number", "0.25", ".25"),
    ("number", "5", "$5"),
    ("number", "5", "$5$"),
    ("number", "50%", "50"),
    ("number", "50%", r"50\%"),
    ("number", "12", "12 km"),
    ("number", "12 km", "12"),
    ("number", "12 km", "12 km"),
    ("number", "90", r"90^\circ"),
    ("number", "1200", r"1.2 \times 10^3"),
    ("number", "0.001", "1e-3"),
    ("number", "42", r"x = 42"),
    ("number", "42", r"\(42\)"),
    ("number", "42", "**42**"),
    ("number", "so 6 * 7\n#### 42", "42"),
    ("number", "42", "The answer is 42."),
    ("number", "42", "答案是 42。"),
    ("number", "42", "答案\uff1a42"),
    ("number", "42", "The answer is 41. No, the answer is 42"),
    ("number", "10000", r"10{,}000"),
    # the last box counts
    ("number", "42", r"first \boxed{41}, then \boxed{42}"),
    ("math", "42", r"It is $\boxed{42}$."),
    ("math", r"\frac{1}{2}", r"So \boxed{\frac{1}{2}} it is"),
    ("math", r"\boxed{7}", "7"),
    # expressions
    ("math", r"\frac{\pi}{2}", r"\pi/2"),
    ("math", r"2\sqrt{2}", r"\sqrt{8}"),
    ("math", r"\sqrt{2}", "sqrt(2)"),
    ("math", "x^2-1", r"(x-1)(x+1)"),
    ("math", "x^2-1", "-1 + x^2"),
    ("math", r"\{1,2\}", r"\{2,1\}"),
    ("math", "(1,2)", "(1, 2)"),
    ("math", "[0,1)", r"[0, 1)"),
    ("math", "x=3", "3"),
    ("math", "2x+1", "y = 2x+1"),
    ("math", "x>3", "3<x"),
    ("math", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
    ("math", "3+4i", "4i+3"),
    ("math", r"x=\sqrt{3}", r"x = \sqrt{3}"),
    ("math", "2^{10}x", "1024x"),
    ("math", "2\\sqrt{2}", "The final answer is $2\\sqrt{2}$."),
    # choices
    ("choice", "A", "A"),
    ("choice", "A", "(A)"),
    ("choice", "(B)", "b"),
    ("choice", "B", "B. a cat"),
    ("choice", "C", "(C) vitamin A"),
    ("choice", "D", "The answer is (D)."),
    ("choice", "D", r"\boxed{D}"),
    ("choice", "E", r"\boxed{\text{E}}"),
    ("choice", "B", "The correct option is B"),
    ("choice", "B", "**B**"),
    # texts
    ("text", "Paris", "paris"),
    ("text", "New York", "  new   york. "),
    ("text", "Yes", r"\boxed{\text{yes}}"),
    ("text", "Ｐａｒｉｓ", "Paris"),
    ("text", "Paris", "The answer is Paris."),
    ("text", "巴黎", "“巴黎”。"),
]

WRONG = [
    ("number", "42", "43"),
    ("number", "42", "-42"),
    ("number", "0.333", "1/3"),
    ("number", "1/3", "0.333333"),
    # equations, restatements, lists of candidates
    ("number", "42", "41=42"),
    ("number", "42", r"\boxed{41=42}"),
    ("math", "42", r"\boxed{41=42}"),
    ("math", "42", r"\boxed{20+22}"),
    ("number", "42", "6*7"),
    ("number", "42", "6 * 7 = 42"),
    ("number", "42", "$42$ or 43"),
    ("number", "42", "43 or $42$"),
    ("number", "42", "41, 42"),
    ("number", "42", "41 or 42"),
    ("math", "42", r"\boxed{41, 42}"),
    ("math", "42", r"\boxed{41 \text{ or } 42}"),
    ("number", "42", "41 42"),
    ("number", "6", "1 2 3"),
    ("math", "1024", "2^{10}"),
    ("number", "3", "3x"),
    ("number", "2", "2pi"),
    ("number", "5 km", "5 m"),
    ("number", "50%", "0.5"),
    ("number", "0.5", "50%"),
    ("number", "42", ""),
    ("number", "42", "forty-two"),
    ("number", "42", "I think it might be 42"),
    ("number", "1234", "1,23,4"),
    ("number", "1", "1/0"),
    ("number", "1", "1" + "0" * 5000),
    ("number", "1", "1e999999999"),
    ("math", r"\sqrt{2}", r"\sqrt{2}, \sqrt{3}"),
    ("math", r"\sqrt{2}", r"\sqrt{2} \text{ or } \sqrt{3}"),
    ("math", r"\sqrt{2}", r"1=\sqrt{2}"),
    ("math", r"\sqrt{2}", "hello world"),
    ("math", r"\frac{x^2}{2}", r"\int x dx"),
    ("math", r"\sqrt{2}", r"$\sqrt{3}$ or $\sqrt{2}$"),
    ("math", "x^2-1", "x^2+1"),
    ("math", "[0,1)", "[0,1]"),
    ("math", "(1,2)", "(2,1)"),
    ("math", "x=3", "y=3"),
    ("math", "x^2", "x^{2" + "x" * 2000 + "}"),
    ("choice", "A", "B"),
    ("choice", "A", "A or B"),
    ("choice", "A", "A, B"),
    ("choice", "A", "(A) and (B)"),
    ("choice", "A", "A. x B. y"),
    ("choice", "A", "A dog"),
    ("choice", "A", "Apple"),
    ("choice", "A", "AB"),
    ("text", "Paris", "London"),
    ("text", "Paris", "Paris or London"),
    ("text", "Paris", "not Paris"),
]


def ids(cases: list) -> list[str]:
    return [f"{verifier}-{gold}-{offered}"[:50] for verifier, gold, offered in cases]


@pytest.mark.parametrize(("verifier", "gold", "offered"), RIGHT, ids=ids(RIGHT))
def test_right(verifier: str, gold: object, offered: str):
    for completion in (f"{THOUGHT}<answer>{offered}</answer>", THOUGHT + offered, offered):
        assert accuracy([completion], [gold], verifier=[verifier]) == [1.0]


@pytest.mark.parametrize(("verifier", "gold", "offered"), WRONG, ids=ids(WRONG))
def test_wrong(verifier: str, gold: object, offered: str):
    for completion in (f"{THOUGHT}<answer>{offered}</answer>", THOUGHT + offered, offered):
        assert accuracy([completion], [gold], verifier=[verifier]) == [0.0]


@pytest.mark.parametrize(
    "completion",
    [
        "<think> 42 </think>",
        "<think> <answer> 42 </answer> </think> <answer> 41 </answer>",
        r"<think> \boxed{42} </think> I do not know",
        "<think> so it is <answer> 42 </answer>",
        "<think> a </think> <answer> 42",
        "<think> a </think> <answer> 42 </answer> <answer> 41 </answer>",
        r"<think> a </think> \boxed{42} or rather \boxed{41}",
    ],
)
def test_only_the_last_answer_after_the_thinking_counts(completion: str):
    assert accuracy([completion], ["42"]) == [0.0]


@pytest.mark.parametrize(
    ("task", "gold", "offered", "value"),
    [
        ("Expand (x-1)(x+1).", "x^2-1", "(x-1)(x+1)", 0.0),
        ("Expand $(x - 1)(x + 1)$.", "x^2-1", r"\left(x-1\right)(x+1)", 0.0),
        ("Expand (x-1)(x+1).", "x^2-1", "(x+1)(x-1)", 1.0),
        (r"Simplify $\sqrt{8}$.", r"2\sqrt{2}", r"\sqrt{8}", 0.0),
        (r"Is $x^2-1$ or $x^2$ prime?", "x^2-1", "x^2-1", 1.0),
        ([{"role": "user", "content": r"Simplify \sqrt{8}"}], r"2\sqrt{2}", r"\sqrt{8}", 0.0),
        ("Solve 2x = 6 for x.", "x=3", "3", 1.0),
    ],
)
def test_a_restated_task_is_no_answer(task: object, gold: str, offered: str, value: float):
    assert accuracy([rf"\boxed{{{offered}}}"], [gold], prompts=[task], task=["math"]) == [value]


def test_rows_choose_their_verifier():
    said = ["b", "1/2", "1/2", "x", "x"]
    assert accuracy(
        [f"<answer>{answer}</answer>" for answer in said],
        ["B", "0.5", "0.5", None, "x"],
        task=["choice", "math", None, "math", "math"],
        verifier=[None, None, "text", None, "none"],
    ) == [1.0, 1.0, 0.0, None, None]


def test_answers_already_cut_out_are_used():
    assert accuracy(["whatever"], ["4"], answers=["4"]) == [1.0]


@pytest.mark.parametrize(
    ("gold", "verifier"),
    [
        ("42", "number"),
        ("-1,234.5", "number"),
        (r"\frac12", "number"),
        ("12 km", "number"),
        ("B", "choice"),
        ("(C)", "choice"),
        (r"\sqrt{2}", "math"),
        ("x=3", "math"),
        ("1, 2", "math"),
        ("3x", "math"),
        ("Paris", "text"),
        ("New York", "text"),
        ("K", "text"),
        ("yes", "text"),
    ],
)
def test_the_gold_answer_s_look_decides_last(gold: str, verifier: str):
    assert choose_verifier(gold_text(gold)) == verifier


def test_unknown_verifier_is_named():
    with pytest.raises(ValueError, match="verifier='maths' does not exist; did you mean math"):
        accuracy(["4"], ["4"], verifier=["maths"])


@pytest.mark.parametrize(
    ("texts", "about"),
    [
        (["0.5", r"\frac{1}{2}", "it is $1/2$", r"so \boxed{\dfrac12}", "x = 0.50"], {}),
        (["1,000", "1000", "The answer is **1000**.", "1e3", "$1000$", "1000 km"], {"gold": "1000"}),
        (["(b)", "B", "B. Paris", r"\boxed{\text{B}}"], {"gold": "(B)"}),
        (["b", "(B)"], {"gold": "b", "task": "choice"}),
        (["New  York", "the answer is new york."], {"gold": "New York"}),
        ([r"\boxed{x+1}", "It must be $x+1$."], {"gold": "x^2", "verifier": "someone else's"}),
    ],
)
def test_one_answer_is_one_vote(texts: list[str], about: dict[str, str]):
    assert len({vote_key(text, **about) for text in texts}) == 1


def test_different_answers_are_different_votes():
    texts = ["41", "42", "-42", "4.2", "b", "x+1", "x-1", ""]
    assert len({vote_key(text) for text in texts}) == len(texts)
    assert vote_key("A or B", gold="A") not in (vote_key("A", gold="A"), vote_key("B", gold="A"))
    assert vote_key("007", gold="agent", verifier="text") != vote_key("7", gold="agent", verifier="text")
    assert vote_key("**.**") == vote_key(" ") == ""


def test_a_vote_on_a_hostile_text_is_quick():
    start = time.monotonic()
    assert vote_key("\\(" * 50_000 + r" so \boxed{42}") == "42"
    vote_key("\\(" * 50_000)
    assert time.monotonic() - start < 5
