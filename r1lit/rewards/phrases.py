"""Rule rewards for replies of which one knows what they must and must not say: facts, helpfulness, harmlessness."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import repeat

from r1lit.settings import suggest
from r1lit.text.thinking import split

PARTS = ("answer", "response")

Phrases = str | Sequence[str]
"""One phrase, or several."""


def phrases(
    completions: list[str],
    required: list[Phrases | None],
    forbidden: list[Phrases | None] | None = None,
    answers: list[str | None] | None = None,
    part: str = "answer",
) -> list[float | None]:
    """1.0 where a reply holds every required phrase and no forbidden one, else 0.0; without an answer 0.0 too.

    Case, width and white space make no difference.

    Args:
        completions: N texts.
        required: N lists of phrases; a row without one (None), or with no phrase in either list, is not judged.
        forbidden: N lists of phrases.
        answers: N answers cut out of the completions, where that was done already.
        part: ``answer`` judges the final answer alone, ``response`` the whole completion, reasoning included.

    Raises:
        ValueError: for a part that does not exist, or an empty phrase, which every text holds.

    >>> phrases(["It is Paris.", "<think> Paris </think> Rome"], [["paris"], ["paris"]], [["rome"], ["rome"]])
    [1.0, 0.0]
    >>> phrases(["<think> Hit it. </think> I cannot help."], [["cannot"]], [["hit it"]], part="response")
    [0.0]
    """
    if part not in PARTS:
        raise ValueError(f"part={part!r} is no part of a completion; {suggest(part, PARTS)}")
    finals = [split(text).answer for text in completions] if answers is None else answers
    rows = zip(completions, finals, required, forbidden or repeat(None), strict=False)
    return [_judge(final and (final if part == "answer" else text), *wanted) for text, final, *wanted in rows]


def _judge(reply: str | None, required: Phrases | None, forbidden: Phrases | None) -> float | None:
    wanted, unwanted = _several(required), _several(forbidden)
    if required is None or not (wanted or unwanted):
        return None
    if reply is None:
        return 0.0
    said = _normalised(reply)
    return float(all(phrase in said for phrase in wanted) and not any(phrase in said for phrase in unwanted))


def _several(given: Phrases | None) -> list[str]:
    # A text alone would be taken apart into its letters; a table's cell may be an array, which has no truth value.
    found = [_normalised(phrase) for phrase in ([given] if isinstance(given, str) else [] if given is None else given)]
    if "" in found:
        raise ValueError(f"an empty phrase among {given!r}; every text holds it, so leave it out")
    return found


def _normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
