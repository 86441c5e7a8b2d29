"""Languages of words, against texts labelled by hand (`language_table`)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from statistics import mean

import pytest
from language_table import MIXED, SINGLE, label, pieces, text_of

from r1lit.text import detectors, languages
from r1lit.text.languages import consistency, detect, words_by_language
from r1lit.text.scripts import words

DETECTORS = ["langdetect", "lingua"]


def errors(rows, detector: str) -> list[float]:
    found = [consistency(text_of(row), row[0], detector) for row in rows]
    assert None not in found
    return [abs(share - label(row)) for row, share in zip(rows, found, strict=True)]


def test_the_table_is_large_enough():
    assert len(SINGLE) + len(MIXED) >= 60
    assert len({language for row in SINGLE + MIXED for language, _ in pieces(row)} - {"-"}) >= 8
    assert [label(row) for row in SINGLE] == [1.0] * len(SINGLE)
    assert all(0 < label(row) < 1 for row in MIXED)


@pytest.mark.parametrize("detector", DETECTORS)
def test_single_languages(detector: str):
    assert mean(errors(SINGLE, detector)) <= 0.05


@pytest.mark.parametrize("detector", DETECTORS)
def test_mixed_languages(detector: str):
    assert mean(errors(MIXED, detector)) <= 0.10


@pytest.mark.parametrize("row", SINGLE, ids=range(len(SINGLE)))
def test_the_language_of_a_text_without_being_told(row):
    assert detect(text_of(row)) == row[0]


def test_another_target_finds_nothing():
    """A bias towards what is expected would pay for any language."""
    others = {row[0]: "de" if row[0] != "de" else "en" for row in SINGLE}
    assert mean(consistency(text_of(row), others[row[0]]) for row in SINGLE) <= 0.01


def test_speed(capsys):
    """Texts never seen before, as rewards judge them: every verdict on a span is a new one."""
    rows = SINGLE + MIXED
    text = "\n".join(text_of(row) for row in rows)
    detectors._langdetect.cache_clear()
    start = time.perf_counter()
    counts = words_by_language(text)
    cold = (time.perf_counter() - start) / sum(counts.values()) * 1e6
    english = "\n".join(text_of(row) for row in rows if row[0] == "en" and row in SINGLE) + "\n"
    copies = 24_000 // sum(words_by_language(english).values())
    start = time.perf_counter()
    count = sum(words_by_language(english * copies, "en").values())
    long = time.perf_counter() - start
    with capsys.disabled():
        print(f"\nlanguages: {cold:.1f} ms a thousand words of {len(rows)} texts in all languages; ", end="")
        print(f"{long / count * 1e6:.1f} ms a thousand of {count} English words that repeat ({long:.2f} s)")
    assert cold < 500
    assert long < 10


EDGES = {
    "empty": ("", "en", {}),
    "digits": ("12 + 30 = 42", "en", {}),
    "code": ("```python\nfor x in range(3): print(x)\n```", "en", {}),
    "emoji": ("😀👍🏽", "en", {}),
    "a variable": ("x", "en", {}),
    "one word": ("yes", "en", {"en": 1}),
    "one word, nothing expected": ("total", None, {"en": 1}),
    "one word, another expected": ("total", "fr", {"fr": 1}),
    "two languages of the tiny model": ("plus four is eleven, 减三得八", "zh", {"en": 4, "zh": 4}),
    "short English": ("minus three is eight", "en", {"en": 4}),
    "short Chinese": ("加四得十一", "en", {"zh": 5}),
    "another alphabet's letter in a word": ("Наша кaша", "ru", {"ru": 2}),
    "variables in Chinese": ("设 x 为 left_sum，total = 3 + y，`k` 为 n", "zh", {"zh": 3}),
    "a name in Chinese": ("用 Newton 法解", "zh", {"zh": 3}),
    "a word in Chinese": ("先做 sorting 然后求和", "zh", {"zh": 6, "en": 1}),
    "a small word in Chinese": ("Wait，这不对", "zh", {"en": 1, "zh": 3}),
    "numbers in words are no variables": ("三加四 so three + four = seven", "zh", {"zh": 3, "en": 4}),
    "variables in Russian": ("Пусть x = 5, тогда y равно 7", "ru", {"ru": 3}),
    "Greek variables": ("let α and β be even", "en", {"en": 4}),
    "names in English": ("Müller and Poincaré met Erdős in Paris", "en", {"en": 7}),
    "I is a word, i is none": ("I think i is even", "en", {"en": 4}),
    "no small word, the detector decides": (
        "Let me restate the plan. Quadratzahlen berechnen, Ergebnisse vergleichen. That is all we need.",
        "en",
        {"en": 10, "de": 4},
    ),
    "an Arabic word in English": ("The word سلام means peace", "en", {"en": 4, "ar": 1}),
    "a Russian word in Chinese": ("这个词 книга 是书", "zh", {"zh": 5, "ru": 1}),
    "Han between kana": ("合計、三十。答えは五です。", "zh", {"ja": 8}),
    "Han alone": ("合計三十", "ja", {"ja": 4}),
    "Han alone, nothing expected": ("合計三十", None, {"zh": 4}),
    "Chinese characters of its own": ("我们数", "ja", {"zh": 3}),
    "Japanese forms of its own": ("対応", "zh", {"ja": 2}),
    "Korean particles on names": ("Python을 쓰면 x는 셋이다", "ko", {"ko": 4}),
    "a script of no language here": ("ꦲꦤꦕꦫꦏ", "en", {"und": 1}),
    "elided articles": ("l'eau", "en", {"fr": 1}),
    "tags": ("<think> wait </think> <answer> 3 </answer>", "en", {"en": 1}),
}


@pytest.mark.parametrize(("text", "expected", "counts"), EDGES.values(), ids=EDGES.keys())
def test_edges(text: str, expected: str | None, counts: dict[str, int]):
    assert words_by_language(text, expected) == counts


def test_the_first_is_the_most_frequent():
    assert list(words_by_language("减三得八，so it is eight")) == ["zh", "en"]
    assert list(words_by_language("减三，so it is eight")) == ["en", "zh"]


def test_no_words_have_no_consistency():
    assert consistency("3 + 4 = 7", "en") is None
    assert detect("3 + 4 = ?") is None


def test_names_of_languages():
    assert consistency("Zuerst addieren wir", "German") == 1.0
    with pytest.raises(ValueError, match="did you mean german"):
        consistency("Zuerst addieren wir", "Germann")


def test_a_detector_that_does_not_exist():
    with pytest.raises(ValueError, match="did you mean lingua"):
        words_by_language("", detector="linga")


def test_verdicts_hang_on_nothing_but_the_text():
    """Neither on the process's hash seed nor on what was judged before."""
    code = (
        "import sys; sys.path.append(sys.argv[1])\n"
        "from language_table import MIXED, SINGLE, text_of\n"
        "from r1lit.text.languages import words_by_language\n"
        "rows = (SINGLE + MIXED)[:: int(sys.argv[2])]\n"
        "print(sorted((text_of(row), words_by_language(text_of(row), row[0])) for row in rows))\n"
    )
    support = os.path.dirname(sys.modules["language_table"].__file__)
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code, support, step],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, step in (("1", "1"), ("2", "-1"))
    ]
    assert outputs[0] == outputs[1]


def test_many_undecided_clauses_take_no_longer():
    start = time.perf_counter()
    languages.words_by_language("一、" * 20_000, "ja")
    languages.words_by_language("ok so 三、" * 10_000, "ja")
    assert time.perf_counter() - start < 10


def test_every_word_has_one_language():
    text = "\n".join(text_of(row) for row in SINGLE + MIXED)
    total = sum(words_by_language(text).values())
    assert total <= sum(word.count for word in words(text)) <= 1.05 * total
