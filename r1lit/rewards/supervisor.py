"""The process that keeps the workers: it hands out groups, watches the clock, and replaces what hangs or dies.

It is a process rather than threads of the training because it wakes for every completion judged, and each of these
wake-ups would wait for, and take, the training's interpreter lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import queue
import threading
from multiprocessing.connection import Connection
from typing import Any

from r1lit.rewards import process
from r1lit.rewards.judge import Verdict
from r1lit.rewards.worker import verdict_of

LOAD_SECONDS = 180.0
# A reward that never answers on so many rows of a group is not asked for the rest of it, each of which would cost its
# whole time limit.
HOPELESS_ROWS = 4
Unit = tuple[str, list[int]]


class WorkerEnded(Exception):
    """A worker hung past its limit or died; ``reason`` is ``timeout`` or ``crash``."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class Lane:
    """One worker after another: whenever one hangs or dies, the next carries on with what is left of the group."""

    def __init__(self, setup: dict[str, Any]):
        self._setup = setup
        self._child: process.Child | None = None

    def load(self) -> dict[str, str]:
        """Start a worker and let it load the rewards; what went wrong, by reward."""
        self._child, problems = process.Child("r1lit.rewards.worker"), {}
        for number, name in enumerate(self._setup["rewards"]):
            try:
                if number == 0:
                    self._send(pickle.dumps(self._setup))
                error = json.loads(self._receive(LOAD_SECONDS))["error"]
            except WorkerEnded as ended:
                return problems | {name: f"while it was being loaded, {ended}"}
            if error is not None:
                problems[name] = error
        return problems

    def judge(self, payload: bytes, units: list[Unit]) -> list[Verdict]:
        """One verdict a unit, in order."""
        verdicts: list[Verdict] = []
        if self._child is not None and self._child.process.poll() is not None:
            # It died while idle, so no row is to blame.
            self.stop()
        while len(verdicts) < len(units):
            left = units[len(verdicts) :]
            if self._child is None and (problems := self.load()):
                name, problem = next(iter(problems.items()))
                self.stop()
                verdicts += [Verdict.failed(len(rows), "crash", f"{name}: {problem}") for _, rows in left]
            else:
                verdicts += self._judge_until_it_ends(payload, left)
                verdicts += _given_up(units, verdicts)
        return verdicts

    def stop(self) -> str:
        """Kill the worker; how it ended."""
        child, self._child = self._child, None
        return child.kill() if child else ""

    def abandon(self) -> None:
        """Kill the worker from another thread than the one that judges."""
        if (child := self._child) is not None:
            child.signal()

    def _judge_until_it_ends(self, payload: bytes, units: list[Unit]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        try:
            self._send(pickle.dumps((payload, units)))
            for name, _ in units:
                verdicts.append(verdict_of(self._receive(self._setup["rewards"][name]["timeout"])))
        except WorkerEnded as ended:
            rows = units[len(verdicts)][1]
            verdicts.append(Verdict.failed(len(rows), ended.reason, str(ended)))
        return verdicts

    def _send(self, message: bytes) -> None:
        # Where the worker died while idle, the receive that follows says how.
        with contextlib.suppress(OSError):
            self._child.connection.send_bytes(message)

    def _receive(self, seconds: float) -> bytes:
        connection = self._child.connection
        try:
            if connection.poll(seconds):
                return connection.recv_bytes()
        except (EOFError, OSError):
            raise WorkerEnded("crash", f"the reward's process ended: {self.stop()}") from None
        self.stop()
        raise WorkerEnded("timeout", f"the reward took longer than its timeout of {seconds:g} s and was killed")


def _given_up(units: list[Unit], verdicts: list[Verdict]) -> list[Verdict]:
    """Verdicts on the rows that a row-by-row reward is not asked for, since it hung on each one before; else none."""
    name = units[len(verdicts) - 1][0]
    own = [verdict for (other, _), verdict in zip(units, verdicts, strict=False) if other == name]
    if len(own) < HOPELESS_ROWS or not all("timeout" in verdict.reasons.values() for verdict in own):
        return []
    message = f"the reward was not called, for it hung on the group's {len(own)} rows before"
    return [Verdict.failed(len(rows), "timeout", message) for other, rows in units[len(verdicts) :] if other == name]


def main(descriptor: int) -> None:
    """Serve the pool until it closes the socket, or is gone."""
    parent = process.connection_to_parent(descriptor)
    setup, workers = pickle.loads(parent.recv_bytes())
    jobs: queue.SimpleQueue = queue.SimpleQueue()
    lanes = [Lane(setup) for _ in range(workers)]
    lock = threading.Lock()
    for lane in lanes:
        threading.Thread(target=_serve, args=(lane, jobs, parent, lock), daemon=True).start()
    try:
        while True:
            jobs.put(pickle.loads(parent.recv_bytes()))
    except (EOFError, OSError):
        # Nobody waits for an answer any more. A worker that a lane starts meanwhile dies with this process.
        for lane in lanes:
            lane.abandon()
        os._exit(0)


def _serve(lane: Lane, jobs: queue.SimpleQueue, parent: Connection, lock: threading.Lock) -> None:
    _report(parent, lock, {"problems": lane.load()})
    while True:
        key, payload, units = jobs.get()
        verdicts = lane.judge(payload, units)
        _report(parent, lock, {"key": key, "verdicts": [vars(verdict) for verdict in verdicts]})


def _report(parent: Connection, lock: threading.Lock, message: dict[str, Any]) -> None:
    with lock:
        parent.send_bytes(json.dumps(message).encode())
