"""DAPO's soft punishment of overlong completions (arXiv 2503.14476, eq. 13)."""

from __future__ import annotations


def overlong(completion_ids: list[list[int]], max_tokens: int, buffer: int | None = None) -> list[float]:
    """0.0 up to ``max_tokens - buffer`` tokens, falling to -1.0 at ``max_tokens``; to be added to the other rewards.

    Args:
        completion_ids: N completions' token ids.
        max_tokens: the length limit, in tokens.
        buffer: the stretch before it that is punished; a fifth of the limit by default, as DAPO's 4,096 of 20,480.

    Raises:
        ValueError: where the buffer is not between 1 and ``max_tokens``.

    >>> overlong([[7] * length for length in (5, 8, 9, 10)], max_tokens=10, buffer=4)
    [0.0, -0.5, -0.75, -1.0]
    """
    stretch = max(1, max_tokens // 5) if buffer is None else buffer
    if not 1 <= stretch <= max_tokens:
        raise ValueError(f"buffer={buffer}, but it is the last part of max_tokens={max_tokens}; set 1 to {max_tokens}")
    start = max_tokens - stretch
    return [max(-1.0, min(0.0, (start - len(ids)) / stretch)) for ids in completion_ids]
