from __future__ import annotations

import os
import random
import subprocess
import sys
import time

import pytest
from pydantic import ValidationError

from r1lit.text.readable import (
    RULES,
    NearDuplicates,
    Readability,
    has_code_block,
    longest_paragraph,
    repetition,
    shingles,
    similarity,
)

SOUND = (
    "We need the number of multiples of three below one hundred. Thirty three times three is ninety nine, which still "
    "fits, while thirty four times three is too much.\n\nSo there are thirty three of them."
)
SOUND_ZH = "我们先求三的倍数。三十三乘三等于九十九，没有超过一百，而三十四乘三就太大了。\n\n所以一共有三十三个。"


@pytest.mark.parametrize(
    ("text", "n", "share"),
    [
        ("", 2, 0.0),
        ("one", 2, 0.0),
        ("a b a b a b", 2, 3 / 5),  # a b, b a, a b, b a, a b: two distinct of five
        ("A b. a B.", 2, 2 / 5),  # a b, b ., . a, a b, b .
        ("1 + 2 = 3, 1 + 3 = 4", 3, 0.0),
        ("得七得七得七", 2, 3 / 5),
        ("!!!!!", 2, 3 / 4),
        ("so so so", 1, 2 / 3),
    ],
)
def test_repetition(text: str, n: int, share: float):
    assert repetition(text, n) == pytest.approx(share)


def test_loops_are_far_from_what_is_sound():
    assert repetition(SOUND) < 0.05
    assert repetition(SOUND_ZH) < 0.05
    assert repetition("plus four is eleven, minus three is eight, plus two is ten, minus six is four") == 0.0
    assert repetition("plus four is eleven, " * 4) > 0.6
    assert repetition("加四得十一，" * 5) > 0.7


def test_no_ngram_of_nothing():
    with pytest.raises(ValueError, match="n=0"):
        repetition("so", 0)


@pytest.mark.parametrize(
    ("text", "longest"),
    [
        ("", 0),
        ("3 + 4 = 7", 0),
        ("We add.\nThen we stop.", 3),
        ("一二三\n\nso four", 3),
        ("so\n```\nmany words of code here\n```\nwe stop", 2),
    ],
)
def test_longest_paragraph(text: str, longest: int):
    assert longest_paragraph(text) == longest


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("so:\n```python\nprint(1)\n```", True),
        ("so: ```print(1)```", True),
        ("so:\n  ~~~\nprint(1)", True),
        ("so <pre>print(1)</pre>", True),
        ('so <code class="py">print(1)</code>', True),
        ("call `print`", False),
        ("about ~~~ seven", False),
        ("prefer the codes", False),
    ],
)
def test_code_blocks(text: str, found: bool):
    assert has_code_block(text) is found


@pytest.mark.parametrize(
    ("thought", "language", "problems"),
    [
        (SOUND, "en", []),
        (SOUND, None, []),
        (SOUND, "zh", ["mixed language"]),
        (SOUND_ZH, "Chinese", []),
        (SOUND + SOUND_ZH, "en", ["mixed language"]),
        (SOUND + SOUND_ZH, None, ["mixed language"]),
        ("3 + 4 = 7, 7 - 2 = 5", "en", []),
        (None, "en", ["no reasoning"]),
        (" \n", "en", ["no reasoning"]),
        ("so we add it, " * 30, "en", ["repetition"]),
        (SOUND + "\n```python\nprint(1)\n```", "en", ["code block"]),
        (" ".join(f"the {number} apples" for number in range(200)), "en", ["long paragraph"]),
        ("加四得十一，" * 100 + "\n```", "en", ["mixed language", "repetition", "long paragraph", "code block"]),
    ],
)
def test_problems(thought: str | None, language: str | None, problems: list[str]):
    assert Readability().problems(thought, language) == problems


def test_every_rule_can_be_switched_off():
    awful = "加四得十一，" * 100 + "\n```"
    off = Readability(min_consistency=None, max_repetition=None, max_paragraph_words=None, allow_code=True)
    assert off.problems(awful, "en") == []
    assert set(Readability().problems(awful, "en")) == set(RULES)


def test_the_settings_language_wins():
    assert Readability(language="Chinese").problems(SOUND, "en") == ["mixed language"]


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"language": "Germann"}, "did you mean german"),
        ({"detector": "linga"}, "did you mean lingua"),
        ({"min_consistency": 1.5}, "min_consistency"),
        ({"ngram": 0}, "ngram"),
        ({"max_paragraph": 3}, "max_paragraph"),
    ],
)
def test_settings_that_are_none(settings: dict, hint: str):
    with pytest.raises(ValidationError, match=hint):
        Readability(**settings)


def test_similarity_by_hand():
    # we add three, add three and, three and get, and get seven | ... and get eight: three of five
    assert similarity("We add three, and get seven.", "we add three and get eight") == 3 / 5
    assert similarity("", "") == 1.0
    assert similarity("", "so") == 0.0
    assert similarity("减三得八", "减三得九") == 1 / 3
    assert shingles("so it") == {"so it"}
    assert shingles("3 - 4") != shingles("3 + 4")


def noisy_copies(count: int, words: int, seed: int) -> list[str]:
    """Texts of which each third is one before it with a few words changed, so that similarities of all sizes occur."""
    rng = random.Random(seed)
    vocabulary = [f"w{number}" for number in range(2000)]
    texts: list[str] = []
    for number in range(count):
        if number % 3 or not texts:
            texts.append(" ".join(rng.choices(vocabulary, k=words)))
        else:
            copy = rng.choice(texts).split()
            for _ in range(rng.randint(0, 8)):
                copy[rng.randrange(words)] = rng.choice(vocabulary)
            texts.append(" ".join(copy))
    return texts


@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
def test_near_duplicates_are_those_of_every_pair(threshold: float):
    known, kept, wrong = NearDuplicates(threshold), [], 0
    texts = noisy_copies(300, 60, seed=1)
    for text in texts:
        mine = shingles(text)
        expected = any(len(mine & theirs) / len(mine | theirs) >= threshold for theirs in kept)
        found = known.seen(text)
        wrong += found != expected
        # Both go on from the same memory, so that one miss is counted once.
        if not found:
            kept.append(mine)
    assert 10 < len(texts) - len(kept) < 100
    assert wrong == 0
    assert len(known) == len(kept)


def test_thousands_of_texts(capsys):
    texts = noisy_copies(10_000, 60, seed=2)
    known = NearDuplicates(0.8)
    start = time.perf_counter()
    found = sum(known.seen(text) for text in texts)
    took = time.perf_counter() - start
    with capsys.disabled():
        print(f"\nnear-duplicates: {found} of {len(texts)} texts in {took:.1f} s")
    assert 500 < found < 4000
    assert took < 30


def test_texts_from_one_template_take_no_longer():
    """All are alike, none a near-duplicate: what the index is there for does not help."""
    rng = random.Random(3)
    base = [f"w{number}" for number in range(60)]
    texts = [" ".join(rng.choice("xyzuv") + word if rng.random() < 0.1 else word for word in base) for _ in range(2000)]
    known = NearDuplicates(0.95)
    start = time.perf_counter()
    for text in texts:
        known.seen(text)
    assert time.perf_counter() - start < 20


def test_texts_without_units():
    known = NearDuplicates()
    assert [known.seen(text) for text in ("", "...", "so")] == [False, True, False]


@pytest.mark.parametrize("threshold", [0, -1, 1.1])
def test_a_threshold_that_is_none(threshold: float):
    with pytest.raises(ValueError, match=f"threshold={threshold}"):
        NearDuplicates(threshold)


def test_the_same_in_every_process():
    code = (
        "import random\nfrom r1lit.text.readable import NearDuplicates, Readability\n"
        "rng = random.Random(0)\nknown = NearDuplicates(0.5)\n"
        "texts = [' '.join(rng.choices('abcd', k=12)) for _ in range(500)]\n"
        "print([known.seen(text) for text in texts], Readability().problems('加四得十一，' * 100 + '```', 'en'))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert "True" in outputs.pop()
