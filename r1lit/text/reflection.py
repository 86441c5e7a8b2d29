"""Words by which reasoning turns back on itself: the marks of DeepSeek-R1-Zero's "aha moment"."""

from __future__ import annotations

import re

WORDS = ("wait", "mistake", "however", "but", "retry", "error", "verify", "wrong", "evaluate", "check")
"""The words that DeepSeek-R1's authors count (s41586-025-09422-z, supplement)."""

PHRASES = ("等等", "再算", "错误", "不对", "但是", "然而", "验证", "检查", "重新")
"""Their like in Chinese, which has no blanks to part words by."""

_REFLECTION = re.compile(rf"\b(?:{'|'.join(WORDS)})\b|{'|'.join(PHRASES)}", re.IGNORECASE)


def reflections(text: str) -> int:
    """How many reflection words a text holds.

    >>> reflections("Two plus two is five. Wait, check: that is wrong.")
    3
    >>> reflections("加四得十，等等，再算，得十一"), reflections("a rebuttal")
    (2, 0)
    """
    return len(_REFLECTION.findall(text))
