"""Reward models held in shards by the training's own processes, for those that no single device can hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from r1lit.distributed.ranks import Ranks
from r1lit.distributed.sampling import holding
from r1lit.models.attention import in_own_arithmetic
from r1lit.rewards.judge import check
from r1lit.rewards.neural import NeuralReward
from r1lit.rewards.pool import GroupScore, Job, RewardError, Tally
from r1lit.rewards.spec import RewardSettings
from r1lit.rewards.targets import resolve
from r1lit.text.thinking import split
from r1lit.types import Rollout, Scored


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

    def add(self, scored: Scored | None, rollout: Rollout, progress: float) -> Scored | None:
        """The scored rollout with this reward's column; None where this process has no completions.

        Raises:
            RewardError: where more of its scores are no numbers than the settings allow.
        """
        column, failed = self._column(rollout)
        if scored is None:
            return None
        weight = torch.tensor([self.settings.weight_at(progress)], dtype=torch.float32)
        return replace(
            scored,
            names=(*scored.names, self.name),
            weights=torch.cat([scored.weights, weight]),
            columns=torch.cat([scored.columns, column[:, None]], dim=1),
            failures={**scored.failures, **({self.name: dict(failed)} if failed else {})},
        )

    def _column(self, rollout: Rollout) -> tuple[torch.Tensor, Counter[str]]:
        """float32 [N], NaN where there is no score, and how many rows failed, by reason."""
        size = rollout.group_size if rollout.groups else 0
        judged = [b for b, group in enumerate(rollout.groups) if self.settings.applies(group.prompt.columns)]
        groups = [rollout.groups[b] for b in judged]
        texts = [text for group in groups for text in group.completions]
        prompts = [group.prompt.raw for group in groups for _ in group.completions]
        with self._holding(), in_own_arithmetic(self._model):
            given = self._reward(prompts, texts, [split(text).answer for text in texts])
        verdict = check(given, len(texts))
        failed = Counter(verdict.reasons.values())
        self._require_scores(GroupScore({self.name: verdict.values}, {self.name: failed}), verdict.message)
        column = torch.full((len(rollout.groups), size), torch.nan)
        if judged:
            values = [torch.nan if value is None else value for value in verdict.values]
            column[judged] = torch.tensor(values, dtype=torch.float32).view(len(judged), size)
        return column.view(-1), failed

    def _require_scores(self, score: GroupScore, message: str) -> None:
        asked = len(score.values[self.name])
        tally = Tally([Job(0, None, [(self.name, list(range(asked)))])])
        for reason in score.failures[self.name]:
            score.messages[self.name, reason] = message
        tally.add(score)
        if problem := tally.problem(self.name, self.settings):
            raise RewardError(problem)
