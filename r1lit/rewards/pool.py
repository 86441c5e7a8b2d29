"""Scoring a rollout in worker processes that rewards may crash, hang or fill without harm to the training."""

from __future__ import annotations

import itertools
import json
import logging
import os
import pickle
import socket
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from r1lit.rewards.process import Child
from r1lit.rewards.spec import RewardSettings
from r1lit.rewards.tally import GroupScore, Job, Tally, group_score
from r1lit.settings import ConfigError, UserError
from r1lit.types import Group, Rollout, Scored

logger = logging.getLogger(__name__)


class RewardError(UserError):
    """A reward failed on more rows than its settings allow, or the processes that score are gone."""


class RewardPool:
    """The rewards of a run, in processes of their own. A context manager; its processes end with it, or with Python.

    A rollout that is still under way in another thread when the pool is closed ends with a `RewardError`.

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
        self._closed, self._changing = False, threading.Lock()
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
            RewardError: where the pool was closed.
        """
        with self._changing:
            if self._closed:
                raise RewardError(CLOSED)
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
            self._stop()
            raise ConfigError([f"reward.{name}: {problem}" for name, problem in problems.items()])

    def close(self) -> None:
        """End the workers, whatever they are doing, for good."""
        self._closed = True
        self._stop()

    def _stop(self) -> None:
        """End the workers; the next group starts others."""
        with self._changing:
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
                self._stop()
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
                yield job, group_score(job, answer["verdicts"])

    def _log_first(self, score: GroupScore) -> None:
        for (name, reason), message in score.messages.items():
            if (name, reason) not in self._logged:
                self._logged.add((name, reason))
                logger.warning("reward %s failed (%s; further ones are only counted): %s", name, reason, message)

    def _send(self, message: object) -> None:
        try:
            self._connection().send_bytes(pickle.dumps(message))
        except OSError as error:
            raise self._gone() from error

    def _receive(self) -> dict:
        try:
            return json.loads(self._connection().recv_bytes())
        except (EOFError, OSError) as error:
            raise self._gone() from error

    def _connection(self) -> Connection:
        child = self._child
        if child is None:
            raise OSError("the workers were ended")
        return child.connection

    def _gone(self) -> RewardError:
        if self._closed:
            return RewardError(CLOSED)
        self._stop()
        return RewardError("the process that keeps the reward workers has gone; was it killed, or memory exhausted?")


CLOSED = "the rewards were closed, so nothing is scored any more"


def _end(child: Child) -> None:
    # A closed socket makes the supervisor kill its workers; it is killed itself only if it does not. Closed alone it
    # would stay open as long as a thread still reads from it.
    with suppress(OSError), socket.socket(fileno=os.dup(child.connection.fileno())) as reading:
        reading.shutdown(socket.SHUT_RDWR)
    child.connection.close()
    try:
        child.process.wait(timeout=5)
    except Exception:
        child.kill()
