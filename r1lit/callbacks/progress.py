"""How a run is going: a live bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class ProgressBar(Callback):
    """The metrics that matter and the time left.

    Args:
        steps: length of the run.
        shown: what to show: label to the metric's name and format.
        console: where to show it; standard error by default.
        lines: how many lines a run prints where there is no terminal.
    """

    def __init__(
        self, steps: int, shown: Mapping[str, tuple[str, str]], console: Console | None = None, lines: int = 20
    ):
        self.steps, self.shown = steps, shown
        self.console = console or Console(stderr=True)
        self.every = max(1, steps // lines)
        self._recent: deque[dict[str, float]] = deque(maxlen=10)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._began = 0.0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._began, self._first = time.perf_counter(), trainer.datamodule.start_step
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]training"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._task = self._bar.add_task("training", total=self.steps, completed=self._first, figures="")
            self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._recent.append(module.metrics)
        done = batch.step + 1
        if self._bar is not None:
            self._bar.update(self._task, completed=done, figures=self.figures())
        elif done % self.every == 0 or done in (1, self.steps):
            left = (time.perf_counter() - self._began) / (done - self._first) * (self.steps - done)
            self.console.print(f"step {done}/{self.steps}  {self.figures()}  left {left:.0f} s", highlight=False)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def figures(self) -> str:
        """The last ten steps' means, as one line."""
        parts = []
        for label, (name, form) in self.shown.items():
            values = [step[name] for step in self._recent if name in step]
            if values:
                parts.append(f"{label} {sum(values) / len(values):{form}}")
        return "  ".join(parts)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
