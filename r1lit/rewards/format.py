"""The format reward: reasoning and answer where the template wants them (arXiv 2501.12948, section 2.2.2)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import repeat

from r1lit.settings import suggest
from r1lit.text.thinking import CLOSE_ANSWER, CLOSE_THINK, OPEN_ANSWER, OPEN_THINK


def format(
    completions: list[str],
    style: str = "r1_zero",
    partial: bool = False,
    task: list[str | None] | None = None,
    by_task: Mapping[str, str] | None = None,
) -> list[float]:
    """1.0 where a completion has exactly the wanted form, else 0.0; with ``partial`` the share of the form it has.

    - ``r1_zero``: one think block, then one answer block, both with content, nothing outside them. Shares: 0.25 each
      for a sound think block, a sound answer block, their order, and nothing outside.
    - ``r1``: one think block with content first, then an answer without tags. Shares: 0.5 for a sound think block,
      0.25 for nothing before it, 0.25 for an answer after it.
    - ``plain``: some text without any of the tags, as simple questions are answered. Shares: 0.5 each for text and for
      no tag around, before or after it.

    A block is sound where its two tags each occur once, in order, around more than white space.

    Args:
        completions: N texts.
        style: the wanted form.
        partial: pay the share of the form that is there, instead of all or nothing.
        task: N task names.
        by_task: the form wanted of a task's rows, where it is not ``style``.

    Raises:
        ValueError: for an unknown style.

    >>> format(["<think> a </think> <answer> b </answer>", "<answer> b </answer>"], partial=True)
    [1.0, 0.25]
    """
    own = dict(by_task or {})
    for key, wanted in {"style": style, **{f"by_task.{name}": wanted for name, wanted in own.items()}}.items():
        if wanted not in _SHARES:
            raise ValueError(f"{key}={wanted!r} is no format; {suggest(str(wanted), _SHARES)}")
    rows = zip(completions, task or repeat(None), strict=False)
    shares = [_SHARES[own.get(str(name), style)](text.strip()) for text, name in rows]
    return shares if partial else [float(share == 1.0) for share in shares]


def _r1_zero(text: str) -> float:
    think, answer = _block(text, OPEN_THINK, CLOSE_THINK), _block(text, OPEN_ANSWER, CLOSE_ANSWER)
    if not (think and answer):
        return 0.25 * (bool(think) + bool(answer))
    ordered = think[1] <= answer[0]
    outside = text[: think[0]] + text[think[1] : answer[0]] + text[answer[1] :]
    return 0.5 + 0.25 * ordered + 0.25 * (ordered and not outside.strip())


def _r1(text: str) -> float:
    think = _block(text, OPEN_THINK, CLOSE_THINK)
    if not think:
        return 0.0
    after = text[think[1] :]
    answered = bool(after.strip()) and OPEN_ANSWER not in after and CLOSE_ANSWER not in after
    return 0.5 + 0.25 * (think[0] == 0) + 0.25 * answered


def _plain(text: str) -> float:
    bare = text
    for tag in (OPEN_THINK, CLOSE_THINK, OPEN_ANSWER, CLOSE_ANSWER):
        bare = bare.replace(tag, "")
    return 0.5 * bool(bare.strip()) + 0.5 * (bool(bare) and bare == text)


def _block(text: str, opening: str, closing: str) -> tuple[int, int] | None:
    """Where the one sound block starts and ends, or None."""
    if text.count(opening) != 1 or text.count(closing) != 1:
        return None
    start, end = text.index(opening), text.index(closing)
    sound = text[start + len(opening) : end].strip()
    return (start, end + len(closing)) if sound else None


_SHARES = {"r1_zero": _r1_zero, "r1": _r1, "plain": _plain}
