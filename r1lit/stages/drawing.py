"""Sampling in batches that are each a pure function of the seed and their number, scored and kept one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from r1lit.curation.samples import Sample, SampleLog
from r1lit.rewards.pool import RewardPool
from r1lit.rollout.sampler import Sampler
from r1lit.stages.run import Run
from r1lit.stages.setup import arithmetic
from r1lit.stages.verdicts import Verdicts
from r1lit.types import Group, Prompt, Scored


@dataclass(frozen=True)
class Asking:
    """One way of asking, of one model.

    Attributes:
        source: its name, which the samples carry.
        stream: with the run's seed it decides the draws, wherever the model lies.
        k: samples a prompt.
        prompts: the prompts as this model is given them, each with its number among those asked.
        cut: ends a completion where the next question begins; None where it stays whole.
    """

    source: str
    stream: str
    k: int
    prompts: Sequence[tuple[int, Prompt]]
    cut: Callable[[str], str] | None = None


@dataclass(frozen=True)
class Drawer:
    """What it takes to sample, score and keep: shared by all ways of asking of a run."""

    run: Run
    rewards: RewardPool
    log: SampleLog
    verdicts: Verdicts
    batch_prompts: int

    def unfinished(self, asking: Asking) -> bool:
        """True where there is something left to sample."""
        return any(name not in self.log.finished for name, _ in self._batches(asking))

    def draw(self, asking: Asking, sampler: Sampler, advance: Callable[[int], None]) -> None:
        """Sample every batch that is not there yet.

        Raises:
            RewardError: where a reward failed on more rows than it may.
            JudgeError: where the judge did.
        """
        for number, (name, numbered) in enumerate(self._batches(asking)):
            if name not in self.log.finished:
                prompts = [prompt for _, prompt in numbered]
                owners = [prompt for prompt in prompts for _ in range(asking.k)]
                seed = _seed(self.run.command.seed, f"{asking.stream}/{number}")
                with arithmetic(self.run):
                    scored = self._scored(asking, sampler, prompts, seed)
                    samples = self._samples(asking, scored, [index for index, _ in numbered for _ in range(asking.k)])
                    samples = self.verdicts.decide(samples, owners)
                self.log.append(name, samples, [prompt.raw for prompt in owners])
                self.verdicts.count(samples)
            advance(len(numbered))

    def _batches(self, asking: Asking) -> Iterable[tuple[str, Sequence[tuple[int, Prompt]]]]:
        size = self.batch_prompts
        for number, start in enumerate(range(0, len(asking.prompts), size)):
            yield f"{asking.source}/{number}", asking.prompts[start : start + size]

    def _scored(self, asking: Asking, sampler: Sampler, prompts: Sequence[Prompt], seed: int) -> Scored:
        def submit(index: int, group: Group) -> None:
            self.rewards.submit(index, _cut(group, asking.cut))

        rollout = sampler.generate(prompts, asking.k, self.run.rollout.sampling, seed=seed, on_group=submit)
        groups = tuple(_cut(group, asking.cut) for group in rollout.groups)
        return self.rewards.gather(replace(rollout, groups=groups))

    def _samples(self, asking: Asking, scored: Scored, numbers: Sequence[int]) -> list[Sample]:
        metric = self.run.evaluation.metric
        groups, totals = scored.rollout.groups, scored.totals.tolist()
        said = [pair for group in groups for pair in zip(group.completions, group.truncated, strict=True)]
        samples = []
        for row, (number, (text, truncated)) in enumerate(zip(numbers, said, strict=True)):
            rewards = dict(zip(scored.names, map(_or_none, scored.columns[row].tolist()), strict=True))
            given = rewards[metric]
            samples.append(
                Sample(
                    index=number,
                    source=asking.source,
                    text=text,
                    length=int(scored.rollout.lengths[row]),
                    truncated=truncated,
                    rewards=rewards,
                    reward=totals[row],
                    correct=None if given is None else given > 0.5,
                    judged_by=None if given is None else metric,
                )
            )
        return samples


def _cut(group: Group, cut: Callable[[str], str] | None) -> Group:
    """The group with its completions ended where they should have been; one that is, was not truncated."""
    if cut is None:
        return group
    texts = [cut(text) for text in group.completions]
    truncated = [
        flag and text == whole for flag, text, whole in zip(group.truncated, texts, group.completions, strict=True)
    ]
    return replace(group, completions=texts, truncated=truncated)


def _seed(seed: int, name: str) -> int:
    return int.from_bytes(sha256(f"{seed} {name}".encode()).digest()[:4], "big") >> 1


def _or_none(value: Any) -> float | None:
    return None if math.isnan(value) else value
