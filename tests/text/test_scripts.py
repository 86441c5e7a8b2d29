from __future__ import annotations

import time

import pytest

from r1lit.text.scripts import units, words

COUNTS = {
    "empty": ("", 0),
    "digits": ("12 + 30 = 42, 3.14", 0),
    "emoji": ("😀 👍🏽 ✓", 0),
    "one word": ("yes", 1),
    "apostrophes belong, hyphens part": ("Don't add twenty-one to l’eau", 6),
    "a Han character is a word": ("减三得八", 4),
    "each three kana begin one": ("それでは計算します。コンピュータ", 2 + 2 + 1 + 2),
    "each four Thai characters begin one": ("ฉันจะบวก สาม", 2 + 1),
    "Korean has spaces": ("먼저 수를 더합니다", 3),
    "a joiner parts no Persian word": ("کم می‌کنیم", 2),
    "marks belong to their letters": ("हम जोड़ते हैं", 3),
    "decomposed accents": ("re\u0301sume\u0301 cafe\u0301", 2),
    "full width": ("ＡＢＣ　ｄｅ", 2),
    "fenced code": ("so\n```python\nprint(total)\n```\ndone", 2),
    "fence that never closes": ("so\n```\nprint total", 1),
    "tildes": ("so\n~~~\nprint total\n~~~\ndone", 2),
    "backticks": ("call `max of` or ``a ` b`` now", 3),
    "dollars": ("let $x + y$ be $$\\sum_i a$$ even", 3),
    "money": ("pay $5 now and $7 later", 4),
    "brackets": (r"then \(a b\) and \[c d\] hold", 3),
    "environment": (r"\begin{align*} a &= b \end{align*} holds", 1),
    "commands, not the text in them": (r"\frac{1}{2} \text{if even} \boxed{7}", 2),
    "identifiers": ("left_sum maxValue x1 3x 2nd np.sqrt(f(y)) number(s) even", 4),
    "links and tags": ("<think> see https://a.b/c_d?e=f or me@ab.cd </think> <|im_end|>", 2),
    "comparison is no tag": ("if a <b and c> d", 6),
    "another alphabet's letter in a word": ("кaша", 1),
    "scripts part words": ("用Python写", 3),
}


@pytest.mark.parametrize(("text", "count"), COUNTS.values(), ids=COUNTS.keys())
def test_counts(text: str, count: int):
    assert sum(word.count for word in words(text)) == count


def test_what_stands_between_words():
    found = words("so, we add.\nThen x = 3 (three)")
    assert [(word.text, word.gap) for word in found] == [
        ("so", 2),
        ("we", 1),
        ("add", 0),
        ("Then", 2),
        ("x", 0),
        ("three", 1),
    ]
    assert [word.text for word in found if word.operand] == ["x"]


def test_the_script_of_a_word_is_that_of_most_letters():
    assert [word.script for word in words("кaша Δabc 减 が นี่ ሰላም ꦲ")] == [
        "cyrillic",
        "latin",
        "han",
        "kana",
        "thai",
        "ethiopic",
        "other",
    ]


@pytest.mark.parametrize(
    "piece", ["a", "\\[", "\\(", "\\begin{cases}", "$a ", "`\n", "<a ", "a.", "a+", '<a b="', "~~~ ", "\\", "x1", "a("]
)
def test_no_text_takes_long(piece: str):
    """A policy may loop on any token; patterns that look ahead from each would take time that grows by the square."""
    text = piece * (150_000 // len(piece))
    start = time.perf_counter()
    words(text)
    assert time.perf_counter() - start < 5


def test_units():
    assert units("It's 3.5 + 4,000: 得七!") == ["it's", "3.5", "+", "4,000", ":", "得", "七", "!"]
