"""The rules' word on texts that no model has just written: what was put into another form, or edited by people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from r1lit.rewards.pool import RewardPool
from r1lit.types import Group, Prompt


def rejudge(
    rewards: RewardPool, metric: str, asked: Sequence[tuple[Any, Mapping[str, Any], str]]
) -> list[float | None]:
    """What the reward ``metric`` gives to each response; None where it does not apply or failed.

    Args:
        rewards: the processes that score.
        metric: the reward's name.
        asked: the prompt, the columns of its row, and the response.
    """
    groups = [
        Group(Prompt(ids=(), raw=raw, columns=columns), completion_ids=[[]], completions=[response], truncated=[False])
        for raw, columns, response in asked
    ]
    return [score.values.get(metric, [None])[0] for score in rewards.score(groups)]
