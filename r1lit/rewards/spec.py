"""What a configuration says about one reward."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from pydantic import ConfigDict, Field, field_validator

from r1lit.settings import Settings

Scalar = str | int | float | bool


class RewardSettings(Settings):
    """One reward: what to call, what it weighs, which rows it judges, what it may cost.

    Keys that are no setting here are keyword arguments of the target.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    dotted_path: str = Field(alias="_target_")
    """``_target_``: the path of a function, or of a class whose instance is the reward."""
    weight: float = Field(1.0, allow_inf_nan=False)
    """Its factor in a row's sum; with 0 the reward is a metric only."""
    schedule: list[tuple[float, float]] | None = None
    """Points (share of the run's steps, factor of the weight) with straight lines between: ``[[0.76, 0], [0.76, 1]]``
    switches a reward on for the last 24 % of the steps. None: the whole weight all the time."""
    when: dict[str, Scalar | list[Scalar]] | None = None
    """Columns and the values they must have for a row to be judged: ``{task: [math, code]}``."""
    timeout: float = Field(10.0, gt=0, allow_inf_nan=False)
    """Seconds a call may take; with ``rowwise`` a call is one row."""
    rowwise: bool = False
    """Judge one row at a time, so that a hang or a crash costs one row instead of its group."""
    messages: bool = False
    """Hand prompts and completions over as lists of chat messages, as TRL does for conversational data."""
    factory: bool = False
    """The target makes the reward: it is called once with the keyword arguments, and what it returns is called."""
    max_failures: float = Field(0.2, ge=0, le=1)
    """Share of a rollout's judged rows that may fail before the run stops."""
    memory_mb: int = Field(4096, ge=64)
    """MiB of address space that calls may add to what the loaded reward occupies."""

    neural: bool = False
    """A model judges, not a rule. Targets in ``r1lit.rewards.neural`` are known to; others say it here."""
    sharded: bool = False
    """Hold a reward of ``r1lit.rewards.neural`` in the training's own processes, in shards as the policy is
    (``trainer=fsdp``), rather than whole in each worker."""
    on_reasoning: bool = False
    """Let a neural reward judge prompts whose answers a rule can verify, which is refused otherwise."""

    @field_validator("dotted_path")
    @classmethod
    def _is_dotted(cls, target: str) -> str:
        if not all(part.isidentifier() for part in target.split(".")) or "." not in target:
            raise ValueError(f"_target_={target!r} is no dotted path; write module.function")
        return target

    @field_validator("schedule")
    @classmethod
    def _in_order(cls, points: list[tuple[float, float]] | None) -> list[tuple[float, float]] | None:
        shares = [share for share, _ in points or ()]
        if points is not None and not (points and shares == sorted(shares) and shares[0] >= 0 and shares[-1] <= 1):
            raise ValueError(
                f"schedule={points} must be points [share of the steps, factor] whose shares rise within 0 and 1; for "
                "instance [[0.76, 0], [0.76, 1]]"
            )
        if points and not all(math.isfinite(factor) for _, factor in points):
            raise ValueError(f"schedule={points} has a factor that is no number; give finite ones")
        return points

    def weight_at(self, progress: float) -> float:
        """The weight after a share ``progress`` of the run's steps, in [0, 1].

        >>> late = RewardSettings(_target_="a.b", weight=0.5, schedule=[[0.75, 0], [0.75, 1]])
        >>> [late.weight_at(progress) for progress in (0, 0.74, 0.75, 1)]
        [0.0, 0.0, 0.5, 0.5]
        >>> ramp = RewardSettings(_target_="a.b", weight=2, schedule=[[0, 0], [0.5, 1]])
        >>> [ramp.weight_at(progress) for progress in (0, 0.25, 0.5, 0.9)]
        [0.0, 1.0, 2.0, 2.0]
        """
        return self.weight * _factor(self.schedule or [(0.0, 1.0)], progress)

    @property
    def keywords(self) -> dict[str, Any]:
        """The keyword arguments bound to the target."""
        return dict(self.model_extra or {})

    def for_worker(self) -> dict[str, Any]:
        """What the worker needs to load and call the reward, in plain values."""
        return {
            "target": self.dotted_path,
            "keywords": self.keywords,
            "factory": self.factory,
            "messages": self.messages,
            "timeout": self.timeout,
            "memory_mb": self.memory_mb,
        }

    def applies(self, columns: Mapping[str, Any]) -> bool:
        """True where a row with these columns is this reward's to judge; a column it lacks never matches."""
        return all(
            key in columns and str(columns[key]) in map(str, wanted if isinstance(wanted, list) else [wanted])
            for key, wanted in (self.when or {}).items()
        )


def _factor(points: Sequence[tuple[float, float]], progress: float) -> float:
    """The height of a broken line; constant before its first point and after its last, and a jump counts at once."""
    for (left, low), (right, high) in reversed(list(pairwise(points))):
        if progress >= right:
            return high
        if progress >= left:
            return low + (high - low) * (progress - left) / (right - left)
    return points[0][1]
