"""Which rows are held out: decided by their text alone, so that no two runs, sources or wordings disagree."""

from __future__ import annotations

from hashlib import sha256

HELD_OUT_SHARE = 0.1
"""A text is held out where ``hash_fraction`` puts it below this."""


def hash_fraction(text: str) -> float:
    """A text's fixed place in [0, 1), uniform over texts: taking the places below ``f`` takes a share of ``f``.

    >>> hash_fraction("3+4-2") == hash_fraction("3+4-2")
    True
    >>> round(sum(hash_fraction(str(n)) < 0.1 for n in range(1000)) / 1000, 1)
    0.1
    """
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big") / 2**64


def is_held_out(text: str) -> bool:
    """True where rows of this text are for testing alone."""
    return hash_fraction(text) < HELD_OUT_SHARE
