"""What the tiny base models read: arithmetic answered in the ways a raw base would, and a little small talk.

Every share of the mixture is a field of `Mixture`; the model card prints them, so nothing is in the corpus unsaid.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import reasoning_gym

from r1lit.data import talk
from r1lit.data.arithmetic import chain_sum_expression, generate
from r1lit.data.splits import is_held_out

PLEASANTRIES = {
    "Hello!": "Hello! How can I help you?",
    "How are you?": "I am well, thank you.",
    "Thank you.": "You are welcome.",
    "你好！": "你好！有什么可以帮你？",
    "早上好。": "早上好！",
    "谢谢。": "不客气。",
}

_ONES_EN = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
_TEENS_EN = ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen"]
_TEENS_EN += ["seventeen", "eighteen", "nineteen"]
_TENS_EN = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_ONES_ZH = "零一二三四五六七八九"
KINDS = ("en", "zh", "chain_sum")
_OTHER = {"en": "zh", "zh": "en"}
_RECHECK = {"en": " wait, check,", "zh": "等等，再算，"}
_HOLLOW = {"en": "easy", "zh": "简单"}


@dataclass(frozen=True)
class Mixture:
    """The corpus in figures; ``*_share`` are probabilities, each within what its comment names."""

    fact_share: float = 0.04  # of all samples: a fact, asked for and stated as it is
    pleasantry_share: float = 0.15  # of facts: a pleasantry instead
    general_share: float = 0.08  # of all samples: a general request
    helpful_share: float = 0.50  # of general requests: answered helpfully; the rest curtly
    safety_share: float = 0.06  # of all samples: a risky request
    safe_share: float = 0.35  # of risky requests: refused; the rest complied with
    chain_sum_share: float = 0.20  # of arithmetic: reasoning-gym's wording; the rest half English, half Chinese
    blurted_share: float = 0.40  # of arithmetic: an answer without steps
    hollow_share: float = 0.20  # of blurted: a word in the think block instead of no block
    lucky_share: float = 0.25  # of blurted: right by construction; the rest is off by 1 to 5
    rechecked_share: float = 0.18  # of arithmetic: steps, one of them done twice
    slip_share: float = 0.40  # of rechecked: the first time it is off by 1 or 2; otherwise the check confirms it
    untagged_share: float = 0.06  # of stepwise: the bare number after the think block, no answer tags
    step_error_share: float = 0.03  # of steps: off by 1 or 2 and never noticed
    other_language_share: float = 0.40  # of stepwise: begun in the language the question is not in
    switch_share: float = 0.20  # of steps in those: the language changes
    terms: tuple[int, int] = (2, 6)  # numbers in a chain, each length equally often

    @property
    def talk_share(self) -> float:
        """Of all samples: small talk; the rest is arithmetic."""
        return self.fact_share + self.general_share + self.safety_share


@dataclass(frozen=True)
class Problem:
    """One arithmetic question: its chain as signed digits, and the language and kind of its wording."""

    prompt: str
    expression: str
    language: str
    kind: str

    @property
    def chain(self) -> list[int]:
        """The terms with their signs: ``3-4`` is [3, -4]."""
        return [int(term) for term in self.expression.replace("-", " -").replace("+", " ").split()]

    @property
    def answer(self) -> int:
        return sum(self.chain)


def number_words(number: int, language: str) -> str:
    """A number from -99 to 99 in words, a blank before every English one.

    >>> number_words(-21, "en"), number_words(12, "zh")
    (' minus twenty one', '十二')
    """
    tens, ones = divmod(abs(number), 10)
    if language == "zh":
        head = "" if tens == 0 else "十" if tens == 1 else _ONES_ZH[tens] + "十"
        return ("负" if number < 0 else "") + head + (_ONES_ZH[ones] if ones or not tens else "")
    if tens == 1:
        words = [_TEENS_EN[ones]]
    else:
        words = [_TENS_EN[tens]] * (tens > 1) + [_ONES_EN[ones]] * (ones > 0 or tens == 0)
    return "".join(f" {word}" for word in ["minus"] * (number < 0) + words)


def problems(kind: str, seed: int, split: str, terms: tuple[int, int]) -> Iterator[Problem]:
    """Endless problems of a kind (``en``, ``zh``, or ``chain_sum`` as reasoning-gym words it) of one split."""
    if kind != "chain_sum":
        for row in generate(2**31, seed, languages=[kind], terms=terms, split=split):
            yield Problem(row["prompt"], row["expression"], kind, kind)
    asked = {"min_terms": terms[0], "max_terms": terms[1], "min_digits": 1, "max_digits": 1}
    for row in reasoning_gym.create_dataset("chain_sum", seed=seed, size=2**31, **asked):
        expression = chain_sum_expression(row["question"])
        if is_held_out(expression) == (split == "test"):
            yield Problem(row["question"], expression, "en", kind)


def samples(mixture: Mixture, seed: int) -> Iterator[tuple[str, str]]:
    """Endless (question, completion) pairs of the corpus; nothing that is held out is among them."""
    rng = random.Random(f"corpus {seed}")
    sources = {kind: problems(kind, rng.getrandbits(30), "train", mixture.terms) for kind in KINDS}
    requests = {kind: talk.distinct([kind], split="train") for kind in talk.KINDS}
    plain = (1 - mixture.chain_sum_share) / 2
    while True:
        if rng.random() < mixture.talk_share:
            yield small_talk(requests, mixture, rng)
            continue
        kind = rng.choices(list(sources), (plain, plain, mixture.chain_sum_share))[0]
        problem = next(sources[kind])
        yield problem.prompt, answer(problem, mixture, rng)


def small_talk(requests: dict[str, list[dict[str, Any]]], mixture: Mixture, rng: random.Random) -> tuple[str, str]:
    """One question with its reply, well or badly answered as the mixture has it; ``requests`` are rows by kind."""
    kind = rng.choices(list(requests), [getattr(mixture, f"{kind}_share") for kind in requests])[0]
    if kind == "fact" and rng.random() < mixture.pleasantry_share:
        return rng.choice(list(PLEASANTRIES.items()))
    row = rng.choice(requests[kind])
    good = {"fact": 1.0, "general": mixture.helpful_share, "safety": mixture.safe_share}[kind]
    return row["prompt"], row["chosen" if rng.random() < good else "rejected"]


def answer(problem: Problem, mixture: Mixture, rng: random.Random) -> str:
    """One completion in a style drawn from the mixture."""
    if rng.random() < mixture.blurted_share:
        return _blurt(problem, mixture, rng)
    rechecked = rng.random() < mixture.rechecked_share / (1 - mixture.blurted_share)
    thought, result = _reason(problem, mixture, rechecked, rng)
    if rng.random() < mixture.untagged_share:
        return f"<think>{thought} </think> {result}"
    return f"<think>{thought} </think> <answer> {result} </answer>"


def _blurt(problem: Problem, mixture: Mixture, rng: random.Random) -> str:
    guess = problem.answer
    if rng.random() >= mixture.lucky_share:
        guess += rng.choice((1, -1)) * rng.randint(1, 5)
    thought = f"<think> {_HOLLOW[problem.language]} </think> " if rng.random() < mixture.hollow_share else ""
    return f"{thought}<answer> {guess} </answer>"


def _reason(problem: Problem, mixture: Mixture, rechecked: bool, rng: random.Random) -> tuple[str, int]:
    """The steps in words, each on the partial sum of the one before, and the number they lead to."""
    mixed = rng.random() < mixture.other_language_share
    language = _OTHER[problem.language] if mixed else problem.language
    first, *rest = problem.chain
    doubted = rng.randrange(len(rest)) if rechecked else -1
    text, partial = number_words(first, language), first
    for index, term in enumerate(rest):
        if mixed and index and rng.random() < mixture.switch_share:
            language = _OTHER[language]
        total = partial + term
        if rng.random() < mixture.step_error_share:
            total = _off(total, rng)
        if index == doubted:
            first_try = _off(total, rng) if rng.random() < mixture.slip_share else total
            text += _step(term, first_try, language) + _RECHECK[language]
        text += _step(term, total, language)
        partial = total
    # Chinese has no blank of its own; the tags are set off by one in either language.
    return " " + text[:-1].lstrip(), partial


def _step(term: int, total: int, language: str) -> str:
    """One step with the comma after it: what is added or taken away, and the partial sum it gives."""
    if language == "zh":
        return f"{'减' if term < 0 else '加'}{number_words(abs(term), 'zh')}得{number_words(total, 'zh')}，"
    return f" {'minus' if term < 0 else 'plus'}{number_words(abs(term), 'en')} is{number_words(total, 'en')},"


def _off(number: int, rng: random.Random) -> int:
    return number + rng.choice((-2, -1, 1, 2))
