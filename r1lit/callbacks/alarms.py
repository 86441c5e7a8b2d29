"""Alarms for rewards that go up while what is written gets odd: the signs of a policy that cheats its rewards."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer
from pydantic import Field

from r1lit.callbacks.recorder import read_metrics
from r1lit.rewards.neural_rules import is_verifier
from r1lit.rewards.spec import RewardSettings
from r1lit.settings import Settings, suggest

FORMAT = "r1lit.rewards.format.format"

logger = logging.getLogger(__name__)

Step = Mapping[str, Any]


class AlarmSettings(Settings):
    """When a rise of a reward is suspicious. Bounds are against the first steps in which the reward had a weight.

    Attributes:
        enabled: look out at all.
        rewards: the rewards that are watched; without any, every one that weighs something but those that verify
            answers and the form: what a rule verifies can hardly be cheated, and its completions may well grow.
        window: steps that are averaged, at the start and up to now; alarms need two such windows.
        min_rise: how far a reward's mean has risen, in standard deviations that it had over the completions.
        length_ratio: completions are this many times longer, or shorter.
        format_drop: the mean of the reward ``format`` has fallen by this.
        clipped_rise: the share of truncated completions has risen by this.
        every: steps between two warnings at least; the metrics ``alarms/...`` count every step.
    """

    enabled: bool = True
    rewards: list[str] | None = None
    window: int = Field(10, ge=1)
    min_rise: float = Field(0.5, gt=0)
    length_ratio: float = Field(1.5, gt=1)
    format_drop: float = Field(0.1, gt=0, lt=1)
    clipped_rise: float = Field(0.1, gt=0, lt=1)
    every: int = Field(50, ge=1)


class Change(NamedTuple):
    """A mean at the start and now, and the standard deviation to measure it by where there is one."""

    before: float
    now: float
    deviation: float = 0.0


class _Windows:
    """The first steps that count, and the last ones."""

    def __init__(self, size: int):
        self.size, self.seen = size, 0
        self.start: list[Step] = []
        self.recent: deque[Step] = deque(maxlen=size)

    def add(self, step: Step) -> None:
        self.seen += 1
        self.recent.append(step)
        if len(self.start) < self.size:
            self.start.append(step)

    @property
    def apart(self) -> bool:
        """True where no step is in both."""
        return self.seen >= 2 * self.size


class HackingAlarms(Callback):
    """Adds ``alarms/length``, ``alarms/format`` and ``alarms/clipped_ratio`` to each step's metrics: how many rewards
    have risen while that drifted; and warns of them with the figures.

    It has to stand before the callbacks that record the metrics; a resumed run looks back into its ``metrics.jsonl``.

    Args:
        directory: the run's.
        rewards: settings by name.
        settings: what is watched, and the bounds.
    """

    def __init__(self, directory: Path, rewards: Mapping[str, RewardSettings], settings: AlarmSettings):
        self.path, self.settings = directory / "metrics.jsonl", settings
        self.rewards = {name: rewards[name] for name in watched(rewards, settings)}
        self._windows = {name: _Windows(settings.window) for name in self.rewards}
        self._warned: int | None = None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        first = trainer.datamodule.start_step
        for row in read_metrics(self.path) if self.rewards else ():
            if row["step"] < first:
                self._add(row, module.total_steps)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.rewards:
            return
        self._add({"step": batch.step, **module.metrics}, module.total_steps)
        found = {name: drifts for name in self.rewards if (drifts := self.look(name))}
        module.metrics |= {f"alarms/{what}": float(sum(what in drifts for drifts in found.values())) for what in DRIFTS}
        if found and (self._warned is None or batch.step - self._warned >= self.settings.every):
            self._warned = batch.step
            for name, drifts in found.items():
                logger.warning("step %d: %s", batch.step + 1, self._told(name, drifts))

    def look(self, name: str) -> dict[str, Change]:
        """What has drifted while the reward rose, ``reward`` itself included; empty where there is no alarm."""
        windows = self._windows[name]
        if not windows.apart:
            return {}
        rise = _change(windows.start, windows.recent, f"rewards/{name}/mean", f"rewards/{name}/std")
        if not _risen(rise, self.settings.min_rise):
            return {}
        drifts = dict(_drifted(windows.start, windows.recent, self.settings))
        return {"reward": rise, **drifts} if drifts else {}

    def _add(self, step: Step, total_steps: int) -> None:
        for name, reward in self.rewards.items():
            if reward.weight_at(step["step"] / total_steps) and step.get(f"rewards/{name}/mean") is not None:
                self._windows[name].add(step)

    def _told(self, name: str, drifts: Mapping[str, Change]) -> str:
        rise = drifts["reward"]
        measure = f", {(rise.now - rise.before) / rise.deviation:.1f} standard deviations" if rise.deviation else ""
        odd = ", ".join(
            f"{DRIFTS[what]} went from {change.before:.3g} to {change.now:.3g}"
            for what, change in drifts.items()
            if what != "reward"
        )
        return (
            f"reward {name} rose from {rise.before:.3g} to {rise.now:.3g}{measure}, while {odd}. It may be getting "
            f"cheated: read the run's completions/, then lower reward.{name}.weight or mend the reward"
        )


DRIFTS = {
    "length": "completions/mean_length",
    "format": "rewards/format/mean",
    "clipped_ratio": "completions/clipped_ratio",
}
"""What is watched beside a reward: the metric by the alarm's name."""


def watched(rewards: Mapping[str, RewardSettings], settings: AlarmSettings) -> list[str]:
    """The names of the rewards that are watched."""
    if not settings.enabled:
        return []
    if settings.rewards is not None:
        return [name for name in settings.rewards if name in rewards]
    return [
        name
        for name, reward in rewards.items()
        if reward.weight and not is_verifier(name, reward) and reward.dotted_path != FORMAT
    ]


def alarm_problems(rewards: Mapping[str, RewardSettings], settings: AlarmSettings) -> list[str]:
    """What is wrong with the settings, given the chosen rewards."""
    return [
        f"alarms.rewards names {name}, which is not among the chosen rewards; {suggest(name, rewards)}"
        for name in settings.rewards or ()
        if name not in rewards
    ]


def _risen(rise: Change | None, min_rise: float) -> bool:
    return rise is not None and rise.now - rise.before > max(min_rise * rise.deviation, 1e-6)


def _drifted(start: Iterable[Step], recent: Iterable[Step], settings: AlarmSettings) -> Iterator[tuple[str, Change]]:
    bounds = {
        "length": lambda before, now: _ratio(before, now) > settings.length_ratio,
        "format": lambda before, now: before - now > settings.format_drop,
        "clipped_ratio": lambda before, now: now - before > settings.clipped_rise,
    }
    for what, metric in DRIFTS.items():
        change = _change(start, recent, metric)
        if change is not None and bounds[what](change.before, change.now):
            yield what, change


def _ratio(before: float, now: float) -> float:
    """How many times the larger of two lengths is the smaller."""
    low, high = sorted((before, now))
    return high / low if low > 0 else math.inf


def _change(start: Iterable[Step], recent: Iterable[Step], metric: str, deviation: str | None = None) -> Change | None:
    """The means over two windows; None where the metric is not in both."""
    before, now = _mean(start, metric), _mean(recent, metric)
    if before is None or now is None:
        return None
    return Change(before, now, (_mean(start, deviation) or 0.0) if deviation else 0.0)


def _mean(steps: Iterable[Step], metric: str) -> float | None:
    values = [value for step in steps if (value := step.get(metric)) is not None and math.isfinite(value)]
    return sum(values) / len(values) if values else None
