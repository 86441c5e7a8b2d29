"""Run the steps of a chain, each a process of its own, as many at once as may be and as their inputs allow."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from r1lit.callbacks.checkpointing import RunInterruptedError
from r1lit.rewards.process import describe_end
from r1lit.settings import UserError, quoted
from r1lit.stages.manifest import Manifest
from r1lit.stages.plan import Step
from r1lit.stages.standby import Command, Standby

_LOOK = 0.05
"""Seconds between looks at what runs."""


class StepFailedError(UserError):
    """A step ended otherwise than it should; the chain can go on from there."""

    def __init__(self, step: Step, code: int, root: Path):
        self.exit_code = code if code > 0 else 128 - code
        super().__init__(
            f"step {step.name} failed ({describe_end(code)}); its messages stand above, and {step.directory} holds "
            f"what it left. Go on from there with: r1lit resume={root}"
        )


@dataclass(frozen=True)
class Running:
    """A step that has begun: its process, and when."""

    step: Step
    command: Command
    since: float


def run_steps(
    steps: Sequence[Step],
    manifest: Manifest,
    standby: Standby,
    at_once: int,
    say: Callable[[str], None],
    took: Callable[[str, float], None],
) -> None:
    """Run every step that is not done yet, after those whose outputs it reads.

    Where one fails the others are told to save and stop; signals to this process reach all that run.

    Args:
        steps: in the order in which they begin.
        manifest: keeps what has begun and ended.
        standby: begins their processes.
        at_once: how many run at a time.
        say: is told of each step as it begins.
        took: is told of each step's seconds.

    Raises:
        StepFailedError: of the first that failed.
        RunInterruptedError: where a signal came, and what ran had come to its end before it could heed it.
    """
    left, running, failed = list(steps), [], []
    with _forwarding(running) as signals:
        while running or (left and not failed and not signals):
            while not failed and not signals and len(running) < at_once and (step := _ready(left, running)):
                left.remove(step)
                if place := _begin(step, steps, manifest, say):
                    command = standby.begin(place, name=_name(step, manifest.root), last=not left)
                    running.append(Running(step, command, time.perf_counter()))
            for one, code in _ended(running):
                running.remove(one)
                took(_name(one.step, manifest.root), time.perf_counter() - one.since)
                if code == 0 and one.step.makes.exists():
                    manifest.finish(one.step, time.perf_counter() - one.since)
                    continue
                for other in () if failed or signals else running:
                    other.command.process.terminate()
                failed.append((one.step, code))
    if failed:
        raise StepFailedError(*failed[0], manifest.root)
    if signals:
        raise RunInterruptedError(signals[-1], manifest.root)


def _ready(left: Sequence[Step], running: Sequence[Running]) -> Step | None:
    """The first step whose inputs are all there."""
    coming = {step.directory for step in [*left, *(one.step for one in running)]}
    return next((step for step in left if not coming & {step.directory.parent / name for name in step.inputs}), None)


def _begin(step: Step, steps: Sequence[Step], manifest: Manifest, say: Callable[[str], None]) -> list[str]:
    """The step's command, noted as begun; none where it is done."""
    place = f"[{steps.index(step) + 1}/{len(steps)}] {_name(step, manifest.root)}"
    if manifest.done(step):
        say(f"{place}: done before")
        return []
    say(f"{place}: {step.kind}")
    key = "resume" if manifest.begun(step) else "hydra.run.dir"
    manifest.begin(step)
    return [*step.overrides, f"{key}={quoted(str(step.directory))}"]


def _ended(running: Sequence[Running]) -> list[tuple[Running, int]]:
    """What has ended, once anything has, with its exit status; nothing where nothing runs."""
    while running:
        if ended := [(one, code) for one in running if (code := one.command.ended()) is not None]:
            return ended
        time.sleep(_LOOK)
    return []


def _name(step: Step, root: Path) -> str:
    return str(step.directory.relative_to(root))


@contextmanager
def _forwarding(running: Sequence[Running]) -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM go to all that runs; gives the signals that came."""
    signals: list[int] = []

    def forward(signum: int, frame: FrameType | None) -> None:
        signals.append(signum)
        for one in list(running):
            one.command.process.send_signal(signum)

    before = {signum: signal.signal(signum, forward) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
