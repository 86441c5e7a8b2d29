"""Which language each word of a text is in, and the share of one language among them.

Scripts decide where they can: Hangul is Korean, Han characters beside kana are Japanese, others Chinese. Where several
languages share a script, each clause is judged on its own and in its context (`spans`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache

from r1lit.text.codes import language_code
from r1lit.text.detectors import LANGUAGES, check_detector
from r1lit.text.scripts import Word, words
from r1lit.text.spans import SharedScript

UNKNOWN = "und"
"""The code of words in a script that belongs to no language here, as in ISO 639-2."""

BY_SCRIPT = {
    "hangul": "ko",
    "greek": "el",
    "armenian": "hy",
    "georgian": "ka",
    "hebrew": "he",
    "bengali": "bn",
    "gurmukhi": "pa",
    "gujarati": "gu",
    "oriya": "or",
    "tamil": "ta",
    "telugu": "te",
    "kannada": "kn",
    "malayalam": "ml",
    "sinhala": "si",
    "thai": "th",
    "lao": "lo",
    "tibetan": "bo",
    "burmese": "my",
    "ethiopic": "am",
    "khmer": "km",
}
"""The language of a script that is taken for one language's alone."""

_CHINESE = frozenset("我你他她它是吗呢吧把也就都很只哪您")


def words_by_language(text: str, expected: str | None = None, detector: str = "langdetect") -> dict[str, int]:
    """How many words of a text are in each language, most first; `scripts.words` says what a word is.

    Args:
        text: any text.
        expected: the language it should be in, by code or name: it decides where nothing else does.
        detector: ``langdetect``, or ``lingua`` where it is installed.

    Returns:
        Counts by ISO 639-1 code; ``und`` for scripts of no language here. Variables, and names in a sentence of
        another script, are not counted.

    Raises:
        ValueError: for a language or detector that does not exist.
        UserError: where lingua is asked for and not installed.

    >>> words_by_language("plus four is eleven, 减三得八")
    {'en': 4, 'zh': 4}
    """
    check_detector(detector)
    return dict(_counts(text, language_code(expected) if expected else None, detector))


def consistency(text: str, language: str, detector: str = "langdetect") -> float | None:
    """The share of words in one language among all words (arXiv 2501.12948, section 2.3.2); None without words.

    Raises:
        ValueError: for a language or detector that does not exist.
        UserError: where lingua is asked for and not installed.

    >>> consistency("Der Umfang ist $2\\\\pi r$. So we double the radius.", "de")
    0.375
    >>> consistency("3 + 4 = 7", "en") is None
    True
    """
    counts = words_by_language(text, language, detector)
    total = sum(counts.values())
    return counts.get(language_code(language), 0) / total if total else None


def detect(text: str, detector: str = "langdetect") -> str | None:
    """The language that most words of a text are in; None without words of a language.

    >>> detect("七加四等于几？"), detect("What is 7 + 4?"), detect("7 + 4 = ?")
    ('zh', 'en', None)
    """
    return next((language for language in words_by_language(text, None, detector) if language != UNKNOWN), None)


@lru_cache(maxsize=4096)
def _counts(text: str, expected: str | None, detector: str) -> tuple[tuple[str, int], ...]:
    found = words(text)
    counts: Counter[str] = Counter()
    for word, language in zip(found, _labels(found, expected, detector), strict=True):
        if language is not None:
            counts[language] += word.count
    return tuple(counts.most_common())


def _labels(found: Sequence[Word], expected: str | None, detector: str) -> list[str | None]:
    scripts = {word.script for word in found}
    labels = {place: BY_SCRIPT.get(word.script, UNKNOWN) for place, word in enumerate(found)}
    for script in scripts & set(LANGUAGES):
        labels |= SharedScript(found, script, expected, detector).labels()
    if "han" in scripts or "kana" in scripts:
        labels |= _chinese_or_japanese(found, expected)
    if "greek" in scripts:
        # A Greek letter alone is a variable.
        labels |= {place: None for place, word in enumerate(found) if word.script == "greek" and len(word.text) == 1}
    return [labels[place] for place in range(len(found))]


def _chinese_or_japanese(found: Sequence[Word], expected: str | None) -> dict[int, str | None]:
    """Clauses of Han characters and kana: what kana or a character of one language alone does not decide goes by the
    clauses around it."""
    clauses = list(_han_clauses(found))
    verdicts = [_verdict("".join(found[place].text for place in clause)) for clause in clauses]
    default = expected if expected in ("zh", "ja") else "zh"
    before, after = _last_decided(verdicts), _last_decided(verdicts[::-1])[::-1]
    labels: dict[int, str | None] = {}
    for clause, (near, far) in zip(clauses, zip(before, after, strict=True), strict=True):
        # The nearer of the two neighbours; the one before where they are as near.
        labels |= dict.fromkeys(clause, min(near, far, key=lambda neighbour: neighbour[0])[1] or default)
    return labels


def _last_decided(verdicts: Sequence[str | None]) -> list[tuple[float, str | None]]:
    """For each clause the distance to the last decided one up to itself, and its verdict."""
    neighbours: list[tuple[float, str | None]] = []
    distance, verdict = math.inf, None
    for own in verdicts:
        distance, verdict = (0.0, own) if own else (distance + 1, verdict)
        neighbours.append((distance, verdict))
    return neighbours


def _han_clauses(found: Sequence[Word]) -> Iterator[list[int]]:
    clause: list[int] = []
    for place, word in enumerate(found):
        if word.script not in ("han", "kana"):
            continue
        if clause and word.gap:
            yield clause
            clause = []
        clause.append(place)
    if clause:
        yield clause


def _verdict(clause: str) -> str | None:
    if any("\u3041" <= char <= "\u30ff" for char in clause):
        return "ja"
    return next(filter(None, map(_speaks_for, clause)), None)


@cache
def _speaks_for(char: str) -> str | None:
    """The language whose character set alone has a character: many simplified ones are not in Japan's, nor Japan's
    own forms in China's or Taiwan's."""
    if char in _CHINESE or not _in_charset(char, "shift_jis"):
        return "zh"
    return None if _in_charset(char, "gb2312") or _in_charset(char, "big5") else "ja"


def _in_charset(char: str, charset: str) -> bool:
    try:
        char.encode(charset)
    except UnicodeEncodeError:
        return False
    return True
