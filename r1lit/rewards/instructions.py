"""The instructions reward: does an answer do what it was told, as a program can see? (IFEval, arXiv 2311.07911)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from r1lit.rewards.instruction_checks import UnknownInstructionError, follows
from r1lit.text.thinking import split


def instructions(
    completions: list[str],
    instruction_id_list: list[Sequence[str] | None],
    kwargs: list[Sequence[Mapping[str, Any] | None] | None],
    answers: list[str | None] | None = None,
    loose: bool = False,
    share: bool = False,
) -> list[float | None]:
    """1.0 where the answer after the reasoning follows every instruction of its row, else 0.0.

    Args:
        completions: N texts.
        instruction_id_list: N lists of names, those of `instruction_checks.CHECKS`; a row without one, or with a name
            that is none of them, is not judged.
        kwargs: N lists of what each instruction speaks of.
        answers: N answers cut out of the completions, where that was done already.
        loose: an instruction counts as followed too where it is so without the first line, the last line, both or the
            asterisks, as the paper's loose accuracy has it.
        share: pay the share of instructions that are followed, instead of all or nothing.

    >>> instructions(["<think> a, b </think> Yes, sure."], [["punctuation:no_comma", "startend:end_checker"]],
    ...     [[{}, {"end_phrase": "sure."}]], share=True)
    [0.5]
    """
    finals = [split(text).answer for text in completions] if answers is None else answers
    rows = zip(finals, instruction_id_list, kwargs, strict=True)
    return [_judge(final or "", names, given, loose, share) for final, names, given in rows]


def _judge(
    text: str, names: Sequence[str] | None, given: Sequence[Mapping[str, Any] | None] | None, loose: bool, share: bool
) -> float | None:
    # A table's cells may be arrays, which have no truth value.
    names, given = ([] if cells is None else list(cells) for cells in (names, given))
    if not names or len(names) != len(given):
        return None
    texts = _variants(text) if loose else [text]
    try:
        followed = [any(follows(one, *told) for one in texts) for told in zip(names, given, strict=True)]
    except UnknownInstructionError:
        return None
    return sum(followed) / len(followed) if share else float(all(followed))


def _variants(text: str) -> list[str]:
    """The text with and without its first line, its last line and its asterisks."""
    lines = text.split("\n")
    cut = ["\n".join(lines[first : len(lines) - last]).strip() for first, last in product((0, 1), repeat=2)]
    return [text, *cut[1:], *(part.replace("*", "") for part in (text, *cut[1:]))]
