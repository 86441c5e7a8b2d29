"""Reward models held in shards by the training's own processes, for those that no single device can hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from r1lit.distributed.ranks import Ranks
from r1lit.distributed.sampling import holding
from r1lit.models.attention import in_own_arithmetic
from r1lit.rewards.judge import Verdict, check
from r1lit.rewards.neural import NeuralReward
from r1lit.rewards.pool import RewardError
from r1lit.rewards.spec import RewardSettings
from r1lit.rewards.tally import GroupScore, Job, Tally
from r1lit.rewards.targets import resolve
from r1lit.text.thinking import split
from r1lit.types import Group, Rollout, Scored


class ShardedReward:
    """A reward model that all processes compute together, each for completions of its own.

    Where a worker would count an error of the model and go on, this one stops the run: it has no process of its own to
    lose. A score that is not finite is counted as there.

    Args:
        name: of the reward.
        settings: its target is one of `r1lit.rewards.neural`.
        ranks: all processes are to score together.
        place: shards a model.

    Raises:
        ValueError: for a model that cannot be loaded.
    """

    def __init__(
        self, name: str, settings: RewardSettings, ranks: Ranks, place: Callable[[PreTrainedModel], PreTrainedModel]
    ):
        self.name, self.settings = name, settings
        self._reward: NeuralReward = resolve(settings.dotted_path, [])(**settings.keywords, place=place)
        self._model = self._reward.model.requires_grad_(False)
        self._holding = holding(self._model, ranks, whole=False)

    @torch.no_grad()
    def judge(self, rollout: Rollout) -> Verdict:
        """What this process's completions get, together with the other processes; they may have others, or none."""
        groups = self._groups(rollout)
        texts = [text for group in groups for text in group.completions]
        prompts = [group.prompt.raw for group in groups for _ in group.completions]
        with self._holding(), in_own_arithmetic(self._model):
            given = self._reward(prompts, texts, [split(text).answer for text in texts])
        return check(given, len(texts))

    def add(self, scored: Scored, verdict: Verdict, progress: float) -> Scored:
        """The scored rollout with this reward's column, from ``judge``.

        Raises:
            RewardError: where more of its scores are no numbers than the settings allow.
        """
        failed = Counter(verdict.reasons.values())
        self._require_scores(verdict, failed)
        weight = torch.tensor([self.settings.weight_at(progress)], dtype=torch.float32)
        return replace(
            scored,
            names=(*scored.names, self.name),
            weights=torch.cat([scored.weights, weight]),
            columns=torch.cat([scored.columns, self._column(scored.rollout, verdict)], dim=1),
            failures={**scored.failures, **({self.name: dict(failed)} if failed else {})},
        )

    def _groups(self, rollout: Rollout) -> list[Group]:
        return [group for group in rollout.groups if self.settings.applies(group.prompt.columns)]

    def _column(self, rollout: Rollout, verdict: Verdict) -> Tensor:
        """float32 [N, 1], NaN where there is no score."""
        values = iter(verdict.values)
        column = [
            next(values) if self.settings.applies(group.prompt.columns) else None
            for group in rollout.groups
            for _ in group.completions
        ]
        return torch.tensor([[torch.nan if value is None else value] for value in column], dtype=torch.float32)

    def _require_scores(self, verdict: Verdict, failed: Counter[str]) -> None:
        messages = {(self.name, reason): verdict.message for reason in failed}
        tally = Tally([Job(0, None, [(self.name, list(range(len(verdict.values))))])])
        tally.add(GroupScore({self.name: verdict.values}, {self.name: failed}, messages))
        if problem := tally.problem(self.name, self.settings):
            raise RewardError(problem)
