"""Every step's metrics, to the run's metrics.jsonl and to Lightning's loggers."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Recorder(Callback):
    """Appends one JSON object a step to ``metrics.jsonl`` and hands it to the loggers.

    A resumed run first drops the lines of steps that it will run again, so that each step stands there once.
    """

    def __init__(self, directory: Path):
        self.path = directory / "metrics.jsonl"

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        first = trainer.datamodule.start_step
        kept = [row for row in read_metrics(self.path) if row["step"] < first]
        part = self.path.with_suffix(".part")
        part.write_text("".join(json.dumps(row) + "\n" for row in kept))
        os.replace(part, self.path)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.record(trainer, batch.step, module.metrics)

    def record(self, trainer: Trainer, step: int, metrics: dict[str, float]) -> None:
        """Write the metrics of one step; a value that is not finite becomes null, which JSON has."""
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **finite}) + "\n")
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=step)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line cut short by a crash is left out, a missing file has none."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
