"""How good a model is on held-out prompts: pass@1, pass@k, cons@k, each with a confidence interval."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from r1lit.functional import majority_vote, mean_interval, pass_at_k
from r1lit.rewards.accuracy import vote_key
from r1lit.rewards.format import format as format_reward
from r1lit.rewards.pool import RewardPool
from r1lit.rollout.sampler import Sampler
from r1lit.stages.settings import EvaluationSettings
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
    """

    group: Group
    correct: list[bool]
    formatted: list[bool]
    unjudged: int

    @property
    def task(self) -> str:
        return str(self.group.prompt.columns.get("task") or "all")

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
        given = scored.column(settings.metric).view(len(batch), settings.k)
        forms = _formatted(scored).view(len(batch), settings.k)
        for group, values, form in zip(rollout.groups, given, forms, strict=True):
            judged.append(Judged(group, (values > 0.5).tolist(), form.tolist(), int(torch.isnan(values).sum())))
        advance(len(batch))
    return judged


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
    k = len(judged[0].correct)
    correct = [sum(item.correct) for item in judged]
    lengths = [len(ids) for item in judged for ids in item.group.completion_ids]
    truncated = [flag for item in judged for flag in item.group.truncated]
    figures: dict[str, Any] = {}
    for name, interval_name, values in (
        ("pass@1", "ci95", [right / k for right in correct]),
        (f"pass@{k}", f"pass@{k}_ci95", pass_at_k(k, correct, k).tolist()),
        (f"cons@{k}", f"cons@{k}_ci95", [item.consensus() for item in judged]),
    ):
        if name not in figures:
            mean, low, high = mean_interval(values)
            figures |= {name: mean, interval_name: [low, high]}
    return figures | {
        "mean_length": _mean(lengths),
        "format": _mean(flag for item in judged for flag in item.formatted),
        "truncated": _mean(truncated),
        "unjudged": sum(item.unjudged for item in judged),
        "prompts": len(judged),
        "samples": len(lengths),
    }


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


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
        }
        for item in judged
        for text, right, cut, ids in zip(
            item.group.completions, item.correct, item.group.truncated, item.group.completion_ids, strict=True
        )
    ]
