"""What comes back from the workers: the scores of a group, and how a rollout's rewards do while they come in."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from r1lit.rewards.spec import RewardSettings
from r1lit.types import Group


@dataclass(frozen=True)
class Job:
    """A group handed over: its number, and the calls it takes, each a reward's name and the rows it judges."""

    number: int
    group: Group
    units: list[tuple[str, list[int]]]


@dataclass
class GroupScore:
    """What the rewards gave to one group.

    Attributes:
        values: G values by reward, for the rewards that judged the group; None where one abstained or failed.
        failures: how many rows failed, by reward and reason.
        messages: the first failure's message, by reward and reason.
    """

    values: dict[str, list[float | None]] = field(default_factory=dict)
    failures: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    messages: dict[tuple[str, str], str] = field(default_factory=dict)

    def abstained(self, name: str) -> int:
        """Rows on which a reward that judged this group returned None of its own."""
        return self.values[name].count(None) - self.failures.get(name, Counter()).total()


class Tally:
    """How the rewards do on a rollout whose verdicts are still coming in.

    Attributes:
        failures: how many rows failed so far, by reward and reason.
    """

    def __init__(self, jobs: Iterable[Job]):
        self.failures: dict[str, Counter[str]] = defaultdict(Counter)
        self._asked: Counter[str] = Counter()
        for job in jobs:
            for name, rows in job.units:
                self._asked[name] += len(rows)
        self._judged: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, score: GroupScore) -> None:
        """Count one more group."""
        self._judged.update({name: len(values) for name, values in score.values.items()})
        for name, counts in score.failures.items():
            self.failures[name].update(counts)
        for (name, _), message in score.messages.items():
            self._first.setdefault(name, message)

    def problem(self, name: str, settings: RewardSettings) -> str | None:
        """What to tell the user where a reward failed on more rows than its settings allow; None where it did not."""
        asked, failed = self._asked[name], self.failures[name].total()
        if not failed or failed / asked <= settings.max_failures:
            return None
        counts = ", ".join(f"{reason} {count}" for reason, count in self.failures[name].most_common())
        left = asked - self._judged[name]
        return (
            f"reward {name} ({settings.dotted_path}) failed on {failed} of {asked} rows ({failed / asked:.0%}: {counts}"
            f"{f'; {left} not judged any more' if left else ''}), more than max_failures={settings.max_failures:g} "
            f"allows; first: {self._first[name]}\n"
            f"Try it with stage=try_reward and mend it, or raise reward.{name}.max_failures "
            f"(reward.{name}.timeout and reward.{name}.memory_mb bound what a call may cost)."
        )


def group_score(job: Job, verdicts: list[dict]) -> GroupScore:
    """A job's verdicts, one a call, by reward and row."""
    score = GroupScore()
    for (name, rows), verdict in zip(job.units, verdicts, strict=True):
        values = score.values.setdefault(name, [None] * len(job.group.completions))
        for row, value in zip(rows, verdict["values"], strict=True):
            values[row] = value
        for reason in verdict["reasons"].values():
            score.failures[name][reason] += 1
            score.messages.setdefault((name, reason), verdict["message"])
    return score
