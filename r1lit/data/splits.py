"""Which rows are held out: decided by their text alone, so no two runs, sources or wordings disagree."""

from __future__ import annotations

from hashlib import sha256


def hash_fraction(text: str) -> float:
    """A text's fixed place in [0, 1), uniform over texts: a share of ``f`` is held out by taking places below ``f``.

    >>> hash_fraction("3+4-2") == hash_fraction("3+4-2")
    True
    >>> round(sum(hash_fraction(str(n)) < 0.1 for n in range(1000)) / 1000, 1)
    0.1
    """
    # 53 bits, what a float holds exactly: 64 of them could round up to 1.0.
    return (int.from_bytes(sha256(text.encode()).digest()[:8], "big") >> 11) / 2**53
