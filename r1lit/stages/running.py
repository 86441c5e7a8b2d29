"""Run the steps of a chain, each a process of its own, as many at once as may be and as their inputs allow."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from r1lit.callbacks.checkpointing import RunInterruptedError
from r1lit.rewards.process import describe_end
from r1lit.settings import SIGNALLED, UserError, quoted
from r1lit.stages.manifest import Manifest
from r1lit.stages.plan import Step
from r1lit.stages.standby import Command, Standby

_LOOK = 0.05
"""Seconds between looks at what runs."""


class StepFailedError(UserError):
    """A step ended otherwise than it should; the chain can go on from there."""

    def __init__(self, step: Step, code: int, root: Path):
        self.exit_code = code if code > 0 else SIGNALLED - code
        how = describe_end(code) if code else f"it left no {step.makes.name}"
        super().__init__(
            f"step {_name(step, root)} failed ({how}); its messages stand above, and {step.directory} "
            f"holds what it left. Go on from there with: r1lit resume={root}"
        )


@dataclass
class Running:
    """A step that has begun: its process, when, and how many of the signals that came it has been sent."""

    step: Step
    command: Command
    since: float
    told: int = 0


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
        RunInterruptedError: where a signal came and nothing failed but by signals.
    """
    left, running, failed = list(steps), [], []
    with _noting_signals() as signals, _stopping(running):
        while running or (left and not failed and not signals):
            while not failed and not signals and len(running) < at_once and (step := _ready(left, running)):
                left.remove(step)
                if arguments := _begin(step, steps, manifest, say):
                    command = standby.begin(arguments, name=_name(step, manifest.root), last=not left)
                    running.append(Running(step, command, time.perf_counter()))
            for one, code in _ended(running, signals):
                running.remove(one)
                seconds = time.perf_counter() - one.since
                took(_name(one.step, manifest.root), seconds)
                if code == 0 and one.step.makes.exists():
                    manifest.finish(one.step, seconds)
                    continue
                for other in () if failed or signals else running:
                    other.command.process.terminate()
                failed.append((one.step, code))
    if signals and all(code < 0 or code > SIGNALLED for _, code in failed):
        raise RunInterruptedError(signals[-1], manifest.root)
    if failed:
        raise StepFailedError(*failed[0], manifest.root)


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


def _ended(running: Sequence[Running], signals: Sequence[int]) -> list[tuple[Running, int]]:
    """What has ended, once anything has, with its exit status; nothing where nothing runs. Signals are sent on."""
    while running:
        for one in running:
            for signum in signals[one.told :]:
                one.command.process.send_signal(signum)
                one.told += 1
        if ended := [(one, code) for one in running if (code := one.command.ended()) is not None]:
            return ended
        time.sleep(_LOOK)
    return []


def _name(step: Step, root: Path) -> str:
    return str(step.directory.relative_to(root))


@contextmanager
def _noting_signals() -> Iterator[list[int]]:
    """The Ctrl-C and SIGTERM that come meanwhile. They are sent on from one place, to each step once."""
    signals: list[int] = []
    before = {
        signum: signal.signal(signum, lambda signum, frame: signals.append(signum))
        for signum in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield signals
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def _stopping(running: Sequence[Running]) -> Iterator[None]:
    """Whatever goes wrong here, no step is left running: all are told to save and stop."""
    try:
        yield
    except BaseException:
        for one in running:
            one.command.process.terminate()
        for one in running:
            one.command.process.wait()
        raise
