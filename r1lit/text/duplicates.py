"""Finding texts that say nearly the same: Jaccard similarity of their shingles, and an index that scales (MinHash)."""

from __future__ import annotations

import random
import unicodedata
import zlib
from collections import defaultdict

import numpy as np

from r1lit.text.readable import units

LENGTH = 3
"""Units in a shingle."""

HASHES = 128
MISSED = 1e-3
"""The probability that a text just at the threshold is missed, which decides how the index is cut into bands."""

_OPERATORS = frozenset("-*/%")


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
            just at it is missed, nearly none above.

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
        near = sorted({number for key in keys for number in self._bands.get(key, ())})
        if near and self._is_near(hashed, signature, np.array(near)):
            return True
        self._remember(hashed, signature, keys)
        return False

    def _is_near(self, hashed: np.ndarray, signature: np.ndarray, near: np.ndarray) -> bool:
        # The share of equal hashes estimates the similarity: who is off by four deviations is not looked at further.
        likely = (self._signatures[near] == signature).mean(1)
        slack = 4 * (self.threshold * (1 - self.threshold) / HASHES) ** 0.5
        return any(
            _jaccard(hashed, self._shingles[number]) >= self.threshold
            for number in near[likely >= self.threshold - slack]
        )

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
