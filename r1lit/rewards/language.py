"""The language-consistency reward: is the reasoning in the question's language? (arXiv 2501.12948, section 2.3.2)"""

from __future__ import annotations

from itertools import repeat
from typing import Any

from r1lit.rewards.accuracy import accuracy
from r1lit.text.languages import detect, language_code, words_by_language
from r1lit.text.thinking import split


def language(
    completions: list[str],
    thoughts: list[str | None] | None = None,
    prompts: list[Any] | None = None,
    language: list[str | None] | str | None = None,
    task: list[str | None] | None = None,
    answer: list[Any] | None = None,
    answers: list[str | None] | None = None,
    verifier: list[str | None] | None = None,
    detector: str = "langdetect",
    only_correct: bool = False,
    min_words: int = 3,
) -> list[float | None]:
    """The share of the target language's words among all words of the reasoning; a bonus, in [0, 1].

    0.0 for reasoning of fewer than ``min_words`` words and where there is none, so that saying less never pays; None
    where no target language is known, and with ``only_correct`` where no gold answer is.

    Args:
        completions: N texts.
        thoughts: N halves that reason, cut out of the completions, where that was done already.
        prompts: N questions, or lists of chat messages: the target where ``language`` does not say it.
        language: N target languages by code or name, or one for all rows.
        task: N task names, for ``only_correct``; as ``verifier``, they choose how `accuracy` judges.
        answer: N gold answers, for ``only_correct``.
        answers: N answers cut out of the completions, where that was done already.
        verifier: N verifiers of `accuracy`, for ``only_correct``.
        detector: ``langdetect``, or ``lingua`` where it is installed.
        only_correct: pay nothing where the answer is wrong, since a language alone is easily had.
        min_words: the fewest words of reasoning that are paid for.

    Raises:
        ValueError: for a language or detector that does not exist, ``min_words`` below 1, or ``only_correct`` without
            gold answers.
        UserError: where lingua is asked for and not installed.

    >>> language(["<think> we add them, 得十一 </think> 11"], language=["en"])
    [0.5]
    >>> language(["<think> so we add both </think> 11", "11"], prompts=["What is 4 + 7?"] * 2)
    [1.0, 0.0]
    """
    if min_words < 1:
        raise ValueError(f"min_words={min_words}, but reasoning without words is never paid for; set 1 or more")
    if only_correct and answer is None:
        raise ValueError(
            "only_correct=true needs gold answers; add the column `answer`, route the reward with `when`, or set "
            "only_correct=false"
        )
    count = len(completions)
    reasoning = [split(text).thought for text in completions] if thoughts is None else thoughts
    named = [language] * count if isinstance(language, str) else language or [None] * count
    targets = [_target(*row, detector) for row in zip(named, prompts or repeat(None), strict=False)]
    rewards = [_share(*row, detector, min_words) for row in zip(reasoning, targets, strict=True)]
    if not only_correct:
        return rewards
    right = accuracy(completions, answer, answers, prompts, task, verifier)
    return [None if None in (paid, won) else paid * won for paid, won in zip(rewards, right, strict=True)]


def _target(named: str | None, prompt: Any, detector: str) -> str | None:
    return language_code(named) if named else detect(_question(prompt), detector)


def _question(prompt: Any) -> str:
    """The text that the user wrote last."""
    if prompt is None or isinstance(prompt, str):
        return prompt or ""
    asked = [message["content"] for message in prompt if message["role"] == "user"]
    return str(asked[-1]) if asked else ""


def _share(thought: str | None, target: str | None, detector: str, min_words: int) -> float | None:
    if target is None:
        return None
    counts = words_by_language(thought or "", target, detector)
    total = sum(counts.values())
    return counts.get(target, 0) / total if total >= min_words else 0.0
