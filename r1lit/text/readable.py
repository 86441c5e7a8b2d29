"""Rules that say whether reasoning is readable: one language, no loops, no runaway paragraphs, no code.

The authors of DeepSeek-R1 dropped reasoning with mixed languages, long paragraphs and code blocks from what Dev3 is
taught (arXiv 2501.12948, section 2.3.3). They state no thresholds: those of `Readability` are r1lit's own.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Literal

from pydantic import Field, field_validator

from r1lit.settings import Settings
from r1lit.text.codes import language_code
from r1lit.text.detectors import check_detector
from r1lit.text.languages import words_by_language
from r1lit.text.scripts import UNITS, letters, words

Problem = Literal["no reasoning", "mixed language", "repetition", "long paragraph", "code block"]

_UNSPACED = letters(["han", *UNITS])
_UNITS = re.compile(rf"\d+(?:[.,]\d+)*|[{_UNSPACED}]|[^\W\d_{_UNSPACED}]+(?:['’][^\W\d_{_UNSPACED}]+)*|\S")
_CODE = re.compile(r"```|^[ \t]*~~~|<(?:pre|code)\b[^<>]*>", re.MULTILINE | re.IGNORECASE)


def units(text: str) -> list[str]:
    """What repeats when a text repeats itself, in lower case: words, numbers, other signs one by one, and single
    characters where words are written without spaces.

    >>> units("Let's add 3.5 + x: 得七")
    ["let's", 'add', '3.5', '+', 'x', ':', '得', '七']
    """
    return _UNITS.findall(unicodedata.normalize("NFKC", text).lower())


def repetition(text: str, n: int = 6) -> float:
    """The share of a text's n-grams of `units` that stood in it before, in [0, 1); 0.0 where it has fewer than n.

    Numbers count, so that sums worked the same way are not taken for a loop.

    Raises:
        ValueError: for n below 1.

    >>> repetition("so we add " * 20, n=3), repetition("three and four is seven, three and five is eight", n=3)
    (0.9482758620689655, 0.0)
    """
    if n < 1:
        raise ValueError(f"n={n}, but an n-gram has at least one unit; set 1 or more")
    parts = units(text)
    grams = list(zip(*(parts[start:] for start in range(n)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def longest_paragraph(text: str) -> int:
    """Words in the longest paragraph; a line break ends one, since models do not wrap lines.

    >>> longest_paragraph("We add.\\n\\nThen we add again: 得七")
    6
    """
    return max(sum(word.count for word in words(line)) for line in text.split("\n"))


def has_code_block(text: str) -> bool:
    r"""True where a text has the fence of a code block, closed or not, or an HTML element for code; a name in
    backticks is none.

    >>> has_code_block("so:\n```python\nprint(1)"), has_code_block("call `print`")
    (True, False)
    """
    return bool(_CODE.search(text))


class Readability(Settings):
    """What reasoning must be like to be kept; null switches a rule off."""

    min_consistency: float | None = Field(0.9, ge=0, le=1)
    """The least share of words in one language."""
    max_repetition: float | None = Field(0.3, ge=0, le=1)
    """The largest share of n-grams that stood in the text before."""
    ngram: int = Field(6, ge=1)
    """n of ``max_repetition``: words and signs, or characters where words are written without spaces."""
    max_paragraph_words: int | None = Field(300, ge=1)
    """The most words between two line breaks."""
    allow_code: bool = False
    """Keep reasoning with code blocks."""
    language: str | None = None
    """The language of all reasoning, by code or name; null: each row's own, or else the one most words are in."""
    detector: str = "langdetect"
    """``langdetect``, or ``lingua`` where it is installed."""

    @field_validator("language")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        return language_code(name) if name else None

    @field_validator("detector")
    @classmethod
    def _exists(cls, name: str) -> str:
        check_detector(name)
        return name

    def problems(self, thought: str | None, language: str | None = None) -> list[Problem]:
        """The rules that some reasoning breaks, in the order of `RULES`; empty where it is readable.

        Args:
            thought: the reasoning without its tags; None or blank is the problem "no reasoning" alone.
            language: its language where the settings name none, by code or name.

        Raises:
            ValueError: for a language that does not exist.
            UserError: where lingua is asked for and not installed.

        >>> Readability().problems("We add four, 得十一", "en"), Readability().problems("We add four and get eleven.")
        (['mixed language'], [])
        """
        if not (thought and thought.strip()):
            return ["no reasoning"]
        wanted = self.language or (language_code(language) if language else None)
        return [name for name, breaks in RULES.items() if breaks(self, thought, wanted)]


def _is_mixed(rules: Readability, thought: str, language: str | None) -> bool:
    if rules.min_consistency is None:
        return False
    counts = words_by_language(thought, language, rules.detector)
    target = language or next(iter(counts), None)
    # Formulas alone are in no language, and mix none.
    return bool(counts) and counts.get(target, 0) / sum(counts.values()) < rules.min_consistency


def _repeats(rules: Readability, thought: str, language: str | None) -> bool:
    return rules.max_repetition is not None and repetition(thought, rules.ngram) > rules.max_repetition


def _runs_on(rules: Readability, thought: str, language: str | None) -> bool:
    return rules.max_paragraph_words is not None and longest_paragraph(thought) > rules.max_paragraph_words


def _has_code(rules: Readability, thought: str, language: str | None) -> bool:
    return not rules.allow_code and has_code_block(thought)


RULES: dict[Problem, Callable[[Readability, str, str | None], bool]] = {
    "mixed language": _is_mixed,
    "repetition": _repeats,
    "long paragraph": _runs_on,
    "code block": _has_code,
}
"""Whether some reasoning, in the language it should be in, breaks a rule."""
