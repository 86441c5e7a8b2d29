"""Held-out measures while the policy trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class PeriodicEvaluation(Callback):
    """Calls ``evaluate`` after every ``every``-th step (0: never) and adds its figures to that step's metrics.

    It has to stand before the callbacks that record the metrics.
    """

    def __init__(self, evaluate: Callable[[], dict[str, float]], every: int):
        self.evaluate, self.every = evaluate, every

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.every and (batch.step + 1) % self.every == 0:
            module.metrics |= {f"validation/{name}": value for name, value in self.evaluate().items()}
