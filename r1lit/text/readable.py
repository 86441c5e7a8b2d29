"""Rules that say whether reasoning is readable (one language, no loops, no runaway paragraphs, no code) and new.

The authors of DeepSeek-R1 dropped reasoning with mixed languages, long paragraphs and code blocks from what Dev3 is
taught (arXiv 2501.12948, section 2.3.3). They state no thresholds: those of `Readability` are r1lit's own.
"""

from __future__ import annotations

import random
import re
import unicodedata
import zlib
from collections import defaultdict
from collections.abc import Callable
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from r1lit.settings import Settings
from r1lit.text.codes import language_code
from r1lit.text.detectors import check_detector
from r1lit.text.languages import words_by_language
from r1lit.text.scripts import strip_code, units, words

Problem = Literal["no reasoning", "mixed language", "repetition", "long paragraph", "code block"]

LENGTH = 3
"""Units in a shingle."""

HASHES = 128
MISSED = 1e-3
"""The probability that a text just at the threshold is missed, which decides how the index is cut into bands."""

_OPERATORS = frozenset("-*/%")
_CODE = re.compile(r"```|^[ \t]*~~~|<(?:pre|code)\b[^<>]*>", re.MULTILINE | re.IGNORECASE)


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
    return max(sum(word.count for word in words(line)) for line in strip_code(text).split("\n"))


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


def shingles(text: str) -> frozenset[str]:
    """Every three units of a text that follow each other, punctuation left out; a shorter text is one shingle.

    >>> sorted(shingles("We add 3, then we stop."))
    ['3 then we', 'add 3 then', 'then we stop', 'we add 3']
    """
    parts = [unit for unit in units(text) if unit in _OPERATORS or unicodedata.category(unit[0])[0] != "P"]
    last = max(1, len(parts) - LENGTH + 1)
    return frozenset(" ".join(parts[start : start + LENGTH]) for start in range(last)) if parts else frozenset()


def similarity(a: str, b: str) -> float:
    """The share of the shingles of two texts that both have (Jaccard); 1.0 for two texts without any.

    >>> similarity("We add 3, then we stop.", "we add 3 then we stop"), similarity("We add 3.", "We take 3.")
    (1.0, 0.0)
    """
    ours, theirs = shingles(a), shingles(b)
    return len(ours & theirs) / len(ours | theirs) if ours or theirs else 1.0


class NearDuplicates:
    """Remembers texts and finds those that come near one of them.

    MinHash signatures in bands (Broder, 1997; Leskovec et al., Mining of Massive Datasets, chapter 3) choose whom a
    text is compared with, and the similarity itself decides. The same texts in the same order give the same answers
    in any process.

    Args:
        threshold: the similarity from which two texts are near-duplicates, above 0 and up to 1. One text in a thousand
            just at it is missed, hardly any above.

    Raises:
        ValueError: for a threshold outside that range.

    >>> known = NearDuplicates(threshold=0.8)
    >>> known.seen("We add three and get seven."), known.seen("we add three, and get seven")
    (False, True)
    """

    def __init__(self, threshold: float = 0.8):
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold={threshold}, but similarity is a share; set it above 0 and at most 1")
        self.threshold = threshold
        self._rows = _rows(threshold)
        self._bands: dict[tuple[int, bytes], list[int]] = defaultdict(list)
        self._signatures = np.empty((1024, HASHES), np.uint32)
        self._shingles: list[np.ndarray] = []

    def __len__(self) -> int:
        """How many texts are remembered."""
        return len(self._shingles)

    def seen(self, text: str) -> bool:
        """True where a remembered text is as similar as the threshold; else the text is remembered."""
        hashed = np.unique(np.fromiter((zlib.crc32(part.encode()) for part in shingles(text)), np.uint64))
        signature = _signature(hashed)
        keys = [
            (start, signature[start : start + self._rows].tobytes())
            for start in range(0, HASHES - self._rows + 1, self._rows)
        ]
        if self._is_near(hashed, signature, [self._bands[key] for key in keys if key in self._bands]):
            return True
        self._remember(hashed, signature, keys)
        return False

    def _is_near(self, hashed: np.ndarray, signature: np.ndarray, found: list[list[int]]) -> bool:
        # Where many come near, as texts from one template do, looking at all is quicker than telling which.
        many = sum(map(len, found)) > len(self) // 4
        near = np.arange(len(self)) if many else np.array(sorted(set().union(*found)), np.intp)
        # The share of equal hashes estimates the similarity: who is off by three deviations is not looked at further.
        signatures = self._signatures[: len(self)] if many else self._signatures[near]
        estimates = np.count_nonzero(signatures == signature, axis=1) / HASHES
        least = self.threshold - 3 * (self.threshold * (1 - self.threshold) / HASHES) ** 0.5
        return any(_jaccard(hashed, self._shingles[number]) >= self.threshold for number in near[estimates >= least])

    def _remember(self, hashed: np.ndarray, signature: np.ndarray, keys: list[tuple[int, bytes]]) -> None:
        number = len(self)
        if number == len(self._signatures):
            self._signatures = np.concatenate([self._signatures, np.empty_like(self._signatures)])
        self._signatures[number] = signature
        self._shingles.append(hashed)
        for key in keys:
            self._bands[key].append(number)


def _rows(threshold: float) -> int:
    """Hashes a band: as many as leave a text at the threshold a chance of at most `MISSED` to share none."""
    fitting = [rows for rows in range(1, 17) if (1 - threshold**rows) ** (HASHES // rows) <= MISSED]
    return max(fitting, default=1)


def _signature(hashed: np.ndarray) -> np.ndarray:
    """uint32 [`HASHES`]: for each hash function the least value among a text's shingles."""
    if not len(hashed):
        return np.zeros(HASHES, np.uint32)
    return ((hashed[:, None] * _FACTORS + _OFFSETS) >> np.uint64(32)).min(0).astype(np.uint32)


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    common = len(np.intersect1d(a, b, assume_unique=True))
    total = len(a) + len(b) - common
    return common / total if total else 1.0


_RANDOM = random.Random("near duplicates")
_FACTORS = np.array([_RANDOM.getrandbits(64) | 1 for _ in range(HASHES)], np.uint64)
_OFFSETS = np.array([_RANDOM.getrandbits(64) for _ in range(HASHES)], np.uint64)
