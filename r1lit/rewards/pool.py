"""Scoring a rollout in worker processes that rewards may crash, hang or fill without harm to the training."""

from __future__ import annotations

import itertools
import json
import logging
import pickle
import weakref
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from r1lit.rewards.process import Child
from r1lit.rewards.spec import RewardSettings
from r1lit.settings import ConfigError, UserError
from r1lit.types import Group, Rollout, Scored

logger = logging.getLogger(__name__)


class RewardError(UserError):
    """A reward failed on more rows than its settings allow, or the processes that score are gone."""


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


class RewardPool:
    """The rewards of a run, in processes of their own. A context manager; its processes end with it, or with Python.

    Scoring runs while others are still sampled: ``submit`` a group as soon as it is complete, ``gather`` at the end.

    Args:
        rewards: settings by reward name.
        workers: how many groups are scored at a time, each by a process.
        plugin_paths: folders whose modules a target may name.

    Raises:
        ConfigError: by ``start`` (or the first ``submit``), with every reward that could not be loaded.
        RewardError: by ``gather``, where a reward failed on more than its ``max_failures`` of the rows it judged.
    """

    def __init__(
        self, rewards: Mapping[str, RewardSettings], workers: int = 1, plugin_paths: Iterable[str | Path] = ()
    ):
        if not rewards:
            raise ConfigError(["there are no rewards; name at least one: reward=[accuracy,format]"])
        if workers < 1:
            raise ConfigError([f"workers={workers}, but rewards run in worker processes; set at least 1"])
        self.rewards = dict(rewards)
        self.workers = workers
        self.abstained: dict[str, int] = {}
        """Rows of the last rollout that each reward judged by returning None, by reward."""
        self._paths = [str(path) for path in plugin_paths]
        self._child: Child | None = None
        self._jobs = itertools.count()
        self._sent: dict[int, Job] = {}
        self._logged: set[tuple[str, str]] = set()

    def __enter__(self) -> RewardPool:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, rollout: Rollout) -> Scored:
        return self.gather(rollout)

    def start(self) -> None:
        """Start the workers, unless they run, and have each load every reward.

        Raises:
            ConfigError: with one line a reward that could not be loaded.
        """
        if self._child is not None:
            return
        self._child = Child("r1lit.rewards.supervisor")
        self._finalizer = weakref.finalize(self, _end, self._child)
        specs = {name: settings.for_worker() for name, settings in self.rewards.items()}
        self._send(({"rewards": specs, "paths": self._paths}, self.workers))
        problems: dict[str, str] = {}
        for _ in range(self.workers):
            problems |= self._receive()["problems"]
        if problems:
            self.close()
            raise ConfigError([f"reward.{name}: {problem}" for name, problem in problems.items()])

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        if self._child is not None:
            self._finalizer()
            self._child = None
            self._sent.clear()

    def submit(self, index: int, group: Group) -> None:
        """Hand over group ``index`` of the rollout in the making; returns at once."""
        self.start()
        rows = list(range(len(group.completions)))
        units = []
        for name, settings in self.rewards.items():
            if settings.applies(group.prompt.columns):
                units += [(name, [row]) for row in rows] if settings.rowwise else [(name, rows)]
        payload = {
            "prompt": group.prompt.raw,
            "columns": dict(group.prompt.columns),
            "completions": group.completions,
            "completion_ids": group.completion_ids,
            "truncated": group.truncated,
        }
        self._sent[index] = job = Job(next(self._jobs), group, units)
        if units:
            self._send((job.number, pickle.dumps(payload), units))

    def score(self, groups: Iterable[Group]) -> list[GroupScore]:
        """Score groups, those submitted already included; whatever failed is in the answer, nothing is raised for it.

        Raises:
            RewardError: where the processes that score are gone.
        """
        jobs = self._ask(groups)
        scores = {job.number: score for job, score in self._arriving(jobs)}
        return [scores[job.number] for job in jobs]

    def gather(self, rollout: Rollout, progress: float = 1.0) -> Scored:
        """The rollout with its rewards, weighted as they are after a share ``progress`` of the run's steps; waits for
        what is still being judged.

        Raises:
            RewardError: as soon as a reward has failed on more than its share of the rollout's rows, naming it, the
                reasons and the remedy.
        """
        jobs = self._ask(rollout.groups)
        tally, scores = Tally(jobs), {}
        for job, score in self._arriving(jobs):
            scores[job.number] = score
            self._log_first(score)
            tally.add(score)
            problems = (tally.problem(name, settings) for name, settings in self.rewards.items())
            if problem := next(filter(None, problems), None):
                # What is still being judged may hang as well, and nobody will wait for it.
                self.close()
                raise RewardError(problem)
        self.abstained = {
            name: sum(score.abstained(name) for score in scores.values() if name in score.values)
            for name in self.rewards
        }
        blank = [None] * rollout.group_size
        table = [scores[job.number].values.get(name, blank) for job in jobs for name in self.rewards]
        # A policy in bfloat16 makes that the default type, which is too coarse for rewards.
        columns = torch.tensor(
            [[float("nan") if value is None else value for value in row] for row in table], dtype=torch.float32
        )
        return Scored(
            rollout=rollout,
            names=tuple(self.rewards),
            weights=torch.tensor([reward.weight_at(progress) for reward in self.rewards.values()], dtype=torch.float32),
            columns=columns.view(len(jobs), len(self.rewards), -1).transpose(1, 2).reshape(-1, len(self.rewards)),
            failures={name: dict(tally.failures[name]) for name in self.rewards if tally.failures[name]},
        )

    def _ask(self, groups: Iterable[Group]) -> list[Job]:
        """The groups' jobs, handed over now unless that was done already."""
        jobs = []
        for index, group in enumerate(groups):
            # What a broken-off round submitted under this index is another group.
            if index not in self._sent or self._sent[index].group != group:
                self.submit(index, group)
            jobs.append(self._sent[index])
        self._sent = {}
        return jobs

    def _arriving(self, jobs: list[Job]) -> Iterator[tuple[Job, GroupScore]]:
        """Each job with its score, as the verdicts come in."""
        waiting = {job.number: job for job in jobs if job.units}
        yield from ((job, GroupScore()) for job in jobs if not job.units)
        while waiting:
            answer = self._receive()
            # A broken-off round's verdicts come in too.
            if job := waiting.pop(answer["key"], None):
                yield job, _group_score(job, answer["verdicts"])

    def _log_first(self, score: GroupScore) -> None:
        for (name, reason), message in score.messages.items():
            if (name, reason) not in self._logged:
                self._logged.add((name, reason))
                logger.warning("reward %s failed (%s; further ones are only counted): %s", name, reason, message)

    def _send(self, message: object) -> None:
        try:
            self._child.connection.send_bytes(pickle.dumps(message))
        except OSError as error:
            raise self._gone() from error

    def _receive(self) -> dict:
        try:
            return json.loads(self._child.connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._gone() from error

    def _gone(self) -> RewardError:
        self.close()
        return RewardError("the process that keeps the reward workers has gone; was it killed, or memory exhausted?")


def _group_score(job: Job, verdicts: list[dict]) -> GroupScore:
    score = GroupScore()
    for (name, rows), verdict in zip(job.units, verdicts, strict=True):
        values = score.values.setdefault(name, [None] * len(job.group.completions))
        for row, value in zip(rows, verdict["values"], strict=True):
            values[row] = value
        for reason in verdict["reasons"].values():
            score.failures[name][reason] += 1
            score.messages.setdefault((name, reason), verdict["message"])
    return score


def _end(child: Child) -> None:
    # A closed socket makes the supervisor kill its workers; it is killed itself only if it does not.
    child.connection.close()
    try:
        child.process.wait(timeout=5)
    except Exception:
        child.kill()
