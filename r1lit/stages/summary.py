"""What a run leaves in words and figures: ``summary.json``, and the same in the terminal."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

import r1lit
from r1lit.data.prompts import LoadedPrompts
from r1lit.models.lora import parameter_counts
from r1lit.settings import ConfigError
from r1lit.stages.preflight import Preflight

PACKAGES = ("torch", "lightning", "transformers", "hydra-core", "math-verify", "reasoning-gym")

OF_AN_END = ("after", "steps", "tokens", "flops", "performance", "updates_skipped")
"""Figures that hold for the end of a training alone."""


class Summary:
    """Collects a run's figures, writes them after each addition, and shows them as they come.

    Args:
        directory: the run's.
        console: where they are shown.
        writes: False keeps them, and neither writes nor shows any: what another process does.
    """

    def __init__(self, directory: Path, console: Console | None = None, writes: bool = True):
        self.writes = writes
        self.path = directory / "summary.json"
        self.console = console or Console(stderr=True, quiet=not writes)
        self.figures: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.figures |= {"versions": versions()}
        self._saved = False

    def add(self, **figures: Any) -> None:
        """Put figures in and save: whole or not at all."""
        self.figures |= figures
        if not self.writes:
            return
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.figures, indent=2) + "\n")
        os.replace(part, self.path)
        self._saved = True

    def begin(self, trains: bool) -> None:
        """Save that the run is under way; where it ``trains`` on, what it had measured at an earlier end is no end."""
        if trains:
            held_out = self.figures.pop("held_out", {})
            kept = {name: figures for name, figures in held_out.items() if name not in OF_AN_END}
            self.figures = {name: value for name, value in self.figures.items() if name not in OF_AN_END}
            self.figures |= {"held_out": kept} if kept else {}
        self.add(status="running")

    def lacks_before(self, name: str, mark: str, trained: bool) -> bool:
        """True where a measure before training is to be made, now or anew.

        One of another ``mark`` is dropped: it cannot stand beside a measure that is made now.

        Args:
            name: ``before``, or that in a section: ``held_out.before``.
            mark: what the measure depends on, in a word; kept with it.
            trained: the run goes on from a checkpoint, where it is too late for one.
        """
        *sections, last = name.split(".")
        figures = self.figures
        for section in sections:
            figures = figures.get(section, {})
        marks = self.figures.get("marks", {})
        if last in figures and marks.get(name) != mark:
            del figures[last]
            if trained:
                self.say(f"{name}: left out, since it was measured on other data or in another way than is set now")
        # One write: on the disk no new mark ever stands beside an old measure.
        self.add(marks=marks | {name: mark})
        return last not in figures and not trained

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keep how what runs inside ends: ``status`` is running, then finished, or stopped with a ``reason``."""
        self.figures.pop("reason", None)
        self.figures["status"], self._saved = "running", False
        try:
            yield
        except BaseException as error:
            # Of what never began the directory goes, unless there is something in it.
            if self._saved or not isinstance(error, ConfigError):
                # What ends it may be the very disk that this is to be written to.
                with suppress(OSError):
                    self.add(status="stopped", reason=str(error) or type(error).__name__)
            raise
        self.add(status="finished")

    def say(self, text: str) -> None:
        """One line for the person who waits."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar that vanishes when it is done; gives the function that moves it on."""
        columns = (TextColumn(label), BarColumn(bar_width=20), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bar:
            task = bar.add_task(label, total=total)
            yield lambda count: bar.advance(task, count)

    def show_prompts(self, prompts: LoadedPrompts) -> None:
        """How many prompts there are, and how many rows were left out for what."""
        sources = "".join(f"\n  {line}" for line in str(prompts.report).splitlines())
        self.say(f"prompts: {len(prompts.train)} to train on, {len(prompts.validation)} held out{sources}")

    def show_parameters(self, model: nn.Module) -> None:
        """How much of a model is trained."""
        trained, there = parameter_counts(model)
        self.add(parameters={"all": there, "trained": trained})
        self.say(f"{trained:,} of {there:,} parameters are trained ({trained / there:.1%})")

    def preflight(self, found: Preflight) -> None:
        """The pre-flight's figures."""
        self.add(preflight=found.figures())
        self.say(
            f"pre-flight: pass@1 {found.pass_1:.2f}, pass@{found.group_size} {found.pass_k:.2f} on "
            f"{found.prompts} prompts; "
            f"{found.varied_groups:.0%} of groups have something to teach; {found.truncated:.0%} truncated; prompts of "
            f"{found.shortest_prompt}-{found.longest_prompt} tokens; about {found.memory_gb:.2g} GB needed"
        )

    def evaluation(self, when: str, figures: dict[str, Any]) -> None:
        """The measures before or after training."""
        self.add(**{when: figures})
        low, high = figures.get("ci95", (0.0, 0.0))
        right = f"pass@1 {figures['pass@1']:.3f} [{low:.3f}, {high:.3f}], " if "pass@1" in figures else ""
        self.say(
            f"{when} training: {right}mean length {figures['mean_length']:.1f}, format {figures['format']:.2f}"
        )

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the time that what runs inside takes to ``seconds``, where a resumed run goes on counting."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.took(phase, time.perf_counter() - start)

    def took(self, phase: str, seconds: float) -> None:
        """Add to a phase's ``seconds``."""
        phases = self.figures.setdefault("seconds", {})
        phases[phase] = phases.get(phase, 0.0) + seconds

    def training(self, steps: Sequence[dict[str, Any]]) -> None:
        """Steps, tokens and seconds by phase, added up over the metrics of every step."""
        phases = sorted({name for step in steps for name in step if name.startswith("time/")} - {"time/step"})
        self.add(
            steps=len(steps),
            tokens=sum(int(step["num_tokens"]) for step in steps),
            flops=sum(step.get("perf/flops") or 0.0 for step in steps),
            updates_skipped=sum(step.get("updates_skipped") or 0.0 for step in steps),
            seconds=self.figures.get("seconds", {})
            | {
                "step": sum(step["time/step"] for step in steps),
                **{name.removeprefix("time/"): sum(step.get(name) or 0.0 for step in steps) for name in phases},
            },
        )


def versions() -> dict[str, str]:
    """The versions a run depends on."""
    return {
        "r1lit": r1lit.__version__,
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in PACKAGES},
    }
