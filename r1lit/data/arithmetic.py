"""Chain arithmetic: sums and differences of single digits, asked in English or Chinese."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

from r1lit.data.splits import is_held_out
from r1lit.settings import suggest

WORDINGS = {
    "en": (
        "What is {}?",
        "Compute {}.",
        "How much is {}?",
        "Work out {}.",
        "Please calculate {}.",
        "Calculate {}",
        "Evaluate {}.",
        "Solve: {} =",
        "Find the value of {}.",
        "What does {} equal?",
        "{} = ?",
        "{}",
    ),
    "zh": (
        "{} 等于多少？",
        "{} 是多少？",
        "计算 {}。",
        "请算一算 {}。",
        "算出 {}。",
        "{} 的结果是几？",
        "请问 {} 等于几？",
        "求 {} 的值。",
        "{} = ？",
    ),
}
"""The questions by language; ``{}`` is where the chain goes, as ``3 + 4 - 2`` or, one time in four, ``3+4-2``."""

COMPACT_SHARE = 0.25

SPLITS = ("all", "train", "test")

_CHAIN_SUM = re.compile(r"arithmetic problem:\s*(-?\d+(?:\s*[+-]\s*-?\d+)*)\s*=\s*$")


def generate(
    count: int,
    seed: int,
    languages: Sequence[str] = ("en", "zh"),
    terms: tuple[int, int] = (3, 5),
    split: str = "all",
) -> Iterator[dict[str, str]]:
    """Draw arithmetic problems; the same arguments give the same rows, and a row may come twice.

    Args:
        count: rows to draw.
        seed: of the draw.
        languages: the keys of `WORDINGS` to ask in, equally often.
        terms: the fewest and the most numbers in a chain, each length equally often.
        split: ``test`` is held out by the hash of the expression, whatever the wording; ``train`` is the rest.

    Yields:
        Rows of text with the columns prompt, answer, language, expression and task.

    Raises:
        ValueError: for a language or split that does not exist, or impossible terms.

    >>> next(generate(1, seed=0, languages=["en"]))["task"]
    'arithmetic'
    """
    for name, known in [*((language, WORDINGS) for language in languages), (split, SPLITS)]:
        if name not in known:
            raise ValueError(f"{name!r} is no arithmetic language or split; {suggest(name, known)}")
    if not languages:
        raise ValueError("languages=[], but a question is asked in one; name en, zh or both")
    if not 2 <= terms[0] <= terms[1]:
        raise ValueError(f"terms={tuple(terms)}, but a chain has 2 terms or more; give the fewest, then the most")
    return _draw(count, random.Random(f"arithmetic {seed}"), tuple(languages), terms, split)


def _draw(
    count: int, rng: random.Random, languages: tuple[str, ...], terms: tuple[int, int], split: str
) -> Iterator[dict[str, str]]:
    drawn = 0
    while drawn < count:
        digits = [rng.randint(0, 9) for _ in range(rng.randint(*terms))]
        signs = [1, *(rng.choice((1, -1)) for _ in digits[1:])]
        chain = str(digits[0]) + "".join(
            f" {'+' if sign > 0 else '-'} {digit}" for sign, digit in zip(signs[1:], digits[1:], strict=True)
        )
        expression = chain.replace(" ", "")
        if split != "all" and is_held_out(expression) != (split == "test"):
            continue
        language = rng.choice(languages)
        written = expression if rng.random() < COMPACT_SHARE else chain
        yield {
            "prompt": rng.choice(WORDINGS[language]).format(written),
            "answer": str(sum(sign * digit for sign, digit in zip(signs, digits, strict=True))),
            "language": language,
            "expression": expression,
            "task": "arithmetic",
        }
        drawn += 1


def chain_sum_expression(question: str) -> str:
    """The chain asked for by reasoning-gym's ``chain_sum``, in the form that `generate` calls ``expression``.

    Raises:
        ValueError: where the question is not in ``chain_sum``'s wording.

    >>> chain_sum_expression("State the final answer to the following arithmetic problem: 6 - 7 + 3 =")
    '6-7+3'
    """
    found = _CHAIN_SUM.search(question)
    if found is None:
        raise ValueError(f"{question!r} is not worded as reasoning-gym's chain_sum; split such rows by another column")
    return re.sub(r"\s", "", found[1])
