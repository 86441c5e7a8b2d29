from __future__ import annotations

import sys

import langdetect
import pytest

from r1lit.settings import UserError
from r1lit.text import detectors
from r1lit.text.detectors import DETECTORS, LANGUAGES, LONGEST, detect_span

SENTENCES = {
    "latin": ("de", "Danach teilen wir die Summe durch zwei und erhalten sechs."),
    "cyrillic": ("uk", "Потім поділимо суму на два, і відповідь буде шість."),
    "arabic": ("fa", "سپس مجموع را بر دو تقسیم می‌کنیم و پاسخ شش است."),
    "devanagari": ("mr", "त्यानंतर आपण बेरजेला दोनने भागतो आणि उत्तर सहा मिळते."),
}


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("script", LANGUAGES)
def test_a_sentence(detector: str, script: str):
    language, sentence = SENTENCES[script]
    likely = detect_span(sentence, script, detector)
    assert max(likely, key=likely.__getitem__) == language
    assert likely[language] > 0.6
    assert sum(likely.values()) == pytest.approx(1)
    assert set(likely) <= set(LANGUAGES[script])


@pytest.mark.parametrize("detector", DETECTORS)
def test_capitals_make_no_difference(detector: str):
    likely = detect_span("DANACH TEILEN WIR DIE SUMME", "latin", detector)
    assert max(likely, key=likely.__getitem__) == "de"


@pytest.mark.parametrize("detector", DETECTORS)
def test_nothing_to_go_by(detector: str):
    assert dict(detect_span("", "latin", detector)) == {}
    assert dict(detect_span("\u0295\u0298", "latin", "langdetect")) == {}


def test_the_same_however_often_and_in_whatever_order():
    """langdetect draws at random; what it draws must not hang on what was asked before."""
    spans = ["Compute partial sums modulo seven", "Somme partielle des termes", "Doppelte Summe aller Teiler"]
    before = [dict(detect_span(span, "latin")) for span in spans]
    detectors._langdetect.cache_clear()
    after = [dict(detect_span(span, "latin")) for span in reversed(spans)]
    assert before == after[::-1]


def test_langdetects_own_state_is_left_alone():
    detect_span("Somme partielle", "latin")
    assert langdetect.DetectorFactory.seed is None


def test_more_than_enough_is_not_looked_at():
    long = "Danach teilen wir die Summe durch zwei. " * 50
    assert dict(detect_span(long, "latin")) == dict(detect_span(long[:LONGEST], "latin"))


def test_a_detector_that_does_not_exist():
    with pytest.raises(ValueError, match="detector='langdetct' does not exist; did you mean langdetect"):
        detect_span("so", "latin", "langdetct")


def test_lingua_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "lingua", None)
    detectors._lingua_detector.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'r1lit\[lingua\]', or set detector=langdetect"):
        detect_span("a span that was never asked for", "latin", "lingua")
