"""Splitting a completion into its thought and its answer, in R1-Zero's form and in R1's."""

from __future__ import annotations

from dataclasses import dataclass

OPEN_THINK, CLOSE_THINK = "<think>", "</think>"
OPEN_ANSWER, CLOSE_ANSWER = "<answer>", "</answer>"


@dataclass(frozen=True)
class Answered:
    """The two halves of a completion.

    Attributes:
        thought: the reasoning, without its tags; None where there is none.
        answer: what the completion finally says; None where it says nothing: reasoning that was never closed, an
            answer tag that was never closed, an empty answer.
        tagged: True where the answer stood in ``<answer>`` tags.
    """

    thought: str | None
    answer: str | None
    tagged: bool = False


def split(text: str) -> Answered:
    """Split a completion; nothing inside the reasoning ever counts as the answer, and the last answer tag counts.

    >>> split("<think> 2+2 is 4 </think> <answer> 4 </answer>")
    Answered(thought='2+2 is 4', answer='4', tagged=True)
    >>> split("2+2 is 4 </think> It is 4.")
    Answered(thought='2+2 is 4', answer='It is 4.', tagged=False)
    >>> split("<think> <answer> 4 </answer>")
    Answered(thought='<answer> 4 </answer>', answer=None, tagged=False)
    """
    opened, closed = text.rfind(OPEN_THINK), text.rfind(CLOSE_THINK)
    if opened > closed:
        return Answered(_after_first_open(text), None)
    if closed < 0:
        return Answered(None, *_answer(text))
    return Answered(_after_first_open(text[:closed]), *_answer(text[closed + len(CLOSE_THINK) :]))


def _after_first_open(text: str) -> str:
    # A chat template may open the reasoning itself, so that the completion starts inside it.
    _, tag, after = text.partition(OPEN_THINK)
    return (after if tag else text).strip()


def _answer(text: str) -> tuple[str | None, bool]:
    opened = text.rfind(OPEN_ANSWER)
    if opened < 0:
        return (None if CLOSE_ANSWER in text else text.strip() or None), False
    content, closed, _ = text[opened + len(OPEN_ANSWER) :].partition(CLOSE_ANSWER)
    return (content.strip() or None if closed else None), True
