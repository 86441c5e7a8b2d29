"""Which samples become demonstrations: filters in a stated order, then a preference among what they leave."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r1lit.curation.samples import Sample
from r1lit.curation.settings import STYLES, SelectionSettings
from r1lit.rewards.format import format as format_reward
from r1lit.settings import UserError
from r1lit.text.languages import detect
from r1lit.text.readable import similarity
from r1lit.text.scripts import words
from r1lit.types import Prompt

KEPT, DROPPED = "kept", "dropped: "
"""What a status says: ``kept``, or ``dropped: `` and the filter's name."""

READABLE = ("mixed language", "long paragraph", "code block", "repetition")
"""The filters of `Readability`, in the order in which they count."""

NEAR_DUPLICATE, SURPLUS = "near-duplicate", "surplus"

REMEDIES = {
    "no verdict": "nobody could say whether the samples are right; set a judge (judge.kind=endpoint or local)",
    "always solved": "set drop_always_solved=false, or ask harder prompts",
    "never solved": "ask easier prompts, a better model, or more samples (k)",
    "wrong": "ask easier prompts, a better model, or more samples (k)",
    "truncated": "raise rollout.max_tokens",
    "malformed": "the responses are not in the form that reject.style names; set reject.style=null to keep any",
    "no reasoning": "set min_words=0 to keep answers without reasoning",
    "short reasoning": "lower min_words",
    NEAR_DUPLICATE: "raise near_duplicates, or set it to null",
}
"""What to do where a filter leaves nothing; other filters are the settings of ``readable``."""


class NothingKeptError(UserError):
    """Not a single sample passed the filters."""


@dataclass(frozen=True)
class Candidate:
    """A sample with what became of it.

    Attributes:
        prompt: its prompt.
        sample: the sample.
        status: ``kept``, or ``dropped: `` and the filter.
        pass_rate: share of right ones among the prompt's samples that were judged; None where none was.
        language: that its reasoning should be in; None where nobody can tell.
    """

    prompt: Prompt
    sample: Sample
    status: str
    pass_rate: float | None
    language: str | None

    @property
    def kept(self) -> bool:
        return self.status == KEPT


class Selector:
    """Chooses among the samples of a prompt.

    The filters, in their order: no verdict, never solved and always solved (where asked for), wrong, truncated,
    malformed (where a style is asked for), no or short reasoning, mixed language, long paragraph, code block,
    repetition, near-duplicate (of a kept one), surplus. A sample counts for the first that it fails.

    Args:
        settings: of the selection.
        style: the form that a response must have; None for no matter which.
        seed: of ``prefer=random``.
    """

    def __init__(self, settings: SelectionSettings, style: str | None = None, seed: int = 0):
        self.settings, self.style, self.seed = settings, style, seed

    def select(self, prompt: Prompt, samples: Sequence[Sample]) -> list[Candidate]:
        """All samples of one prompt, in their order, each with its status."""
        verdicts = [sample.correct for sample in samples if sample.correct is not None]
        language, solved = language_of(prompt), self._solved(samples)
        faults = {
            place: fault
            for place, sample in enumerate(samples)
            if (fault := self._undecided(sample) or solved or self._fault(sample, language))
        }
        faults |= self._too_many({place: s for place, s in enumerate(samples) if place not in faults}, prompt)
        rate = sum(verdicts) / len(verdicts) if verdicts else None
        return [
            Candidate(prompt, sample, f"{DROPPED}{faults[place]}" if place in faults else KEPT, rate, language)
            for place, sample in enumerate(samples)
        ]

    @staticmethod
    def _undecided(sample: Sample) -> str | None:
        return "no verdict" if sample.correct is None else None

    def _solved(self, samples: Sequence[Sample]) -> str | None:
        """The fault of all samples of a prompt that is not to be used."""
        verdicts = {sample.correct for sample in samples}
        if self.settings.drop_never_solved and verdicts == {False}:
            return "never solved"
        return "always solved" if self.settings.drop_always_solved and verdicts == {True} else None

    def _fault(self, sample: Sample, language: str | None) -> str | None:
        """The first filter that a sample fails by itself."""
        if not sample.correct:
            return "wrong"
        if sample.truncated:
            return "truncated"
        if self.style is not None and not well_formed(sample.text, self.style):
            return "malformed"
        thought = sample.parts.thought or ""
        if not thought:
            return "no reasoning" if self.settings.min_words else None
        if sum(word.count for word in words(thought)) < self.settings.min_words:
            return "short reasoning"
        return min(self.settings.readable.problems(thought, language), key=READABLE.index, default=None)

    def _too_many(self, samples: Mapping[int, Sample], prompt: Prompt) -> dict[int, str]:
        """The faults of samples that are sound, beside better ones."""
        rank = PREFERENCES[self.settings.prefer]
        salt = f"{self.seed} {prompt.raw}"
        order = sorted(samples, key=lambda place: (rank(samples[place], f"{salt} {place}"), place))
        kept: list[str] = []
        faults = {}
        for place in order:
            if self._repeats(samples[place].text, kept):
                faults[place] = NEAR_DUPLICATE
            elif len(kept) == self.settings.n_per_prompt:
                faults[place] = SURPLUS
            else:
                kept.append(samples[place].text)
        return faults

    def _repeats(self, text: str, kept: Sequence[str]) -> bool:
        threshold = self.settings.near_duplicates
        return threshold is not None and any(similarity(text, other) >= threshold for other in kept)


PREFERENCES: Mapping[str, Callable[[Sample, str], float]] = {
    "shortest": lambda sample, salt: sample.length,
    "longest": lambda sample, salt: -sample.length,
    "highest_reward": lambda sample, salt: -sample.reward,
    "random": lambda sample, salt: random.Random(salt).random(),
}
"""What comes first among the sound samples of a prompt: the lowest figure, then the earliest."""


def well_formed(text: str, style: str) -> bool:
    """True where a response has the form of a style, or with ``any`` of one that has reasoning."""
    return any(format_reward([text], choice) == [1.0] for choice in (STYLES if style == "any" else (style,)))


def language_of(prompt: Prompt) -> str | None:
    """The language that an answer's reasoning should be in: the column ``language``, else the prompt's own."""
    column = prompt.columns.get("language")
    if isinstance(column, str) and column.strip():
        return column
    raw = prompt.raw
    return detect(raw if isinstance(raw, str) else "\n".join(m["content"] for m in raw if m["role"] == "user"))


def by_prompt(samples: Iterable[Sample]) -> dict[int, list[Sample]]:
    """The samples of each prompt, in the order in which the prompts were asked."""
    grouped: dict[int, list[Sample]] = {}
    for sample in samples:
        grouped.setdefault(sample.index, []).append(sample)
    return {index: grouped[index] for index in sorted(grouped)}


def drops(candidates: Iterable[Candidate]) -> dict[str, int]:
    """How many samples each filter dropped, most first."""
    found = Counter(item.status.removeprefix(DROPPED) for item in candidates if not item.kept)
    return dict(found.most_common())


def require_some(candidates: Sequence[Candidate], section: str) -> None:
    """Stop where nothing is left.

    Raises:
        NothingKeptError: with what each filter dropped, and the remedy for the largest.
    """
    if any(item.kept for item in candidates):
        return
    dropped = drops(candidates)
    largest = next(iter(dropped))
    remedy = REMEDIES.get(largest, f"look at {section}.readable")
    counts = ", ".join(f"{name} {count}" for name, count in dropped.items())
    raise NothingKeptError(
        f"none of {len(candidates)} samples is left; the filter that dropped most is {largest!r} ({counts}): {remedy}"
    )


def solved_prompts(candidates: Iterable[Candidate]) -> dict[str, int]:
    """How many prompts were solved by all of their samples, by some and by none, or could not be judged."""
    rates: dict[Any, float | None] = {item.sample.index: item.pass_rate for item in candidates}
    names = {None: "unjudged", 0.0: "never", 1.0: "always"}
    return {"always": 0, "sometimes": 0, "never": 0, "unjudged": 0} | Counter(
        names.get(rate, "sometimes") for rate in rates.values()
    )
