"""How good a model is on held-out prompts: pass@1, pass@k, cons@k, each with a confidence interval."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from r1lit.functional import majority_vote, mean_interval, pass_at_k
from r1lit.rewards.accuracy import UNVERIFIED, vote_key
from r1lit.rewards.format import format as format_reward
from r1lit.rewards.pool import RewardPool
from r1lit.rollout.sampler import Sampler
from r1lit.stages.settings import EvaluationSettings
from r1lit.text.languages import consistency, detect
from r1lit.text.reflection import reflections
from r1lit.text.thinking import split
from r1lit.types import Group, Prompt, Scored


@dataclass(frozen=True)
class Judged:
    """One prompt's samples and which of them are right.

    Attributes:
        group: the samples.
        correct: k flags; a sample that could not be judged is not right.
        formatted: k flags, by the run's own format reward where it has one.
        unjudged: how many could not be judged.
        applies: False where the metric has nothing to say about such prompts, which then count for other measures only.
        rewards: k values a reward, NaN where it gave none.
    """

    group: Group
    correct: list[bool]
    formatted: list[bool]
    unjudged: int
    applies: bool = True
    rewards: Mapping[str, list[float]] = field(default_factory=dict)

    @property
    def task(self) -> str:
        return str(self.group.prompt.columns.get("task") or "all")

    @property
    def votes(self) -> bool:
        """False where answers are not compared with each other: a majority of programs or of essays means nothing."""
        return self.group.prompt.columns.get("verifier") != UNVERIFIED

    def consensus(self) -> float:
        """1 where the most frequent answer, however it is put, is right (cons@k), else 0."""
        votes = [self._vote(split(text).answer) for text in self.group.completions]
        voted = majority_vote(votes)
        return float(voted is not None and self.correct[votes.index(voted)])

    def _vote(self, answer: str | None) -> str | None:
        columns = self.group.prompt.columns
        about = (columns.get("answer"), self.task, str(columns.get("verifier")))
        return None if answer is None else vote_key(answer, *about) or None


def evaluate(
    sampler: Sampler,
    rewards: RewardPool,
    prompts: Sequence[Prompt],
    settings: EvaluationSettings,
    seed: int,
    advance: Callable[[int], None] = lambda prompts: None,
) -> list[Judged]:
    """Sample ``k`` completions of each prompt and judge them by the reward named ``settings.metric``."""
    judged: list[Judged] = []
    for start in range(0, len(prompts), settings.batch_prompts):
        batch = prompts[start : start + settings.batch_prompts]
        rollout = sampler.generate(
            batch, settings.k, settings.sampling, seed=hash((seed, start)) & 0x7FFFFFFF, on_group=rewards.submit
        )
        scored = rewards.gather(rollout)
        tables = scored.columns.view(len(batch), settings.k, -1)
        forms = _formatted(scored).view(len(batch), settings.k)
        for group, table, form in zip(scored.rollout.groups, tables, forms, strict=True):
            given = dict(zip(scored.names, table.T, strict=True))
            applies = rewards.rewards[settings.metric].applies(group.prompt.columns)
            judged.append(_judged(group, given, given[settings.metric], form, applies))
        advance(len(batch))
    return judged


def _judged(group: Group, given: Mapping[str, Tensor], metric: Tensor, form: Tensor, applies: bool) -> Judged:
    return Judged(
        group=group,
        correct=(metric > 0.5).tolist(),
        formatted=form.tolist(),
        unjudged=int(torch.isnan(metric).sum()) if applies else 0,
        applies=applies,
        rewards={name: values.tolist() for name, values in given.items()},
    )


def _formatted(scored: Scored) -> Tensor:
    if "format" in scored.names:
        return scored.column("format") == 1
    completions = [text for group in scored.rollout.groups for text in group.completions]
    return torch.tensor(format_reward(completions)) == 1


def summarize(judged: Sequence[Judged]) -> dict[str, Any]:
    """The figures of an evaluation, for all prompts and by task; ``ci95`` and its like are 95 % intervals."""
    by_task: defaultdict[str, list[Judged]] = defaultdict(list)
    for item in judged:
        by_task[item.task].append(item)
    return _figures(judged) | {"by_task": {task: _figures(items) for task, items in sorted(by_task.items())}}


def _figures(judged: Sequence[Judged]) -> dict[str, Any]:
    lengths = [len(ids) for item in judged for ids in item.group.completion_ids]
    truncated = [flag for item in judged for flag in item.group.truncated]
    thoughts = [(item, split(text).thought) for item in judged for text in item.group.completions]
    return _correctness([item for item in judged if item.applies]) | {
        "mean_length": _mean(lengths),
        "format": _mean(flag for item in judged for flag in item.formatted),
        "truncated": _mean(truncated),
        "thinking": _mean(thought is not None for _, thought in thoughts),
        "language": _mean(filter(None.__ne__, (_consistency(item, thought) for item, thought in thoughts))),
        "reflection": _mean(reflections(text) for item in judged for text in item.group.completions),
        "rewards": _reward_means(judged),
        "unjudged": sum(item.unjudged for item in judged),
        "prompts": len(judged),
        "samples": len(lengths),
    }


def _correctness(judged: Sequence[Judged]) -> dict[str, Any]:
    """pass@1, pass@k and cons@k with their intervals; nothing where no prompt is the metric's to judge."""
    if not judged:
        return {}
    k = len(judged[0].correct)
    correct = [sum(item.correct) for item in judged]
    figures: dict[str, Any] = {}
    for name, interval_name, values in (
        ("pass@1", "ci95", [right / k for right in correct]),
        (f"pass@{k}", f"pass@{k}_ci95", pass_at_k(k, correct, k).tolist()),
        (f"cons@{k}", f"cons@{k}_ci95", [item.consensus() for item in judged if item.votes]),
    ):
        if values and name not in figures:
            mean, low, high = mean_interval(values)
            figures |= {name: mean, interval_name: [low, high]}
    return figures


def _consistency(item: Judged, thought: str | None) -> float | None:
    """The share of the reasoning's words that are in the prompt's language; None where there are none."""
    prompt = item.group.prompt
    language = prompt.columns.get("language") or (detect(prompt.raw) if isinstance(prompt.raw, str) else None)
    return consistency(thought, language) if thought and language else None


def _reward_means(judged: Sequence[Judged]) -> dict[str, float]:
    """Each reward's mean over the samples that it judged."""
    given: defaultdict[str, list[float]] = defaultdict(list)
    for item in judged:
        for name, values in item.rewards.items():
            given[name] += [value for value in values if not math.isnan(value)]
    return {name: _mean(values) for name, values in given.items() if values}


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None


def rows(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """One record a sample, for ``samples.jsonl``."""
    return [
        {
            "prompt": item.group.prompt.raw,
            "expected": json.loads(json.dumps(item.group.prompt.columns.get("answer"), default=str)),
            "task": item.task,
            "completion": text,
            "correct": right,
            "truncated": cut,
            "length": len(ids),
            "rewards": {name: _or_none(values[sample]) for name, values in item.rewards.items()},
        }
        for item in judged
        for sample, (text, right, cut, ids) in enumerate(
            zip(item.group.completions, item.correct, item.group.truncated, item.group.completion_ids, strict=True)
        )
    ]


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
