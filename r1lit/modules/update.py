"""`Updates.take`: an optimiser step of any module: summed over micro-batches, clipped, checked, or skipped."""

from __future__ import annotations

from collections.abc import Iterable

import lightning
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from r1lit.distributed.ranks import ALONE, Ranks
from r1lit.functional import Metrics
from r1lit.modules.metrics import Means
from r1lit.settings import UserError


class TrainingDivergedError(UserError):
    """Too many updates in a row had a loss or a gradient that is not finite."""


class Updates:
    """Takes a module's optimiser steps, leaves out those that are not finite, and stops the run after too many.

    The module optimises manually and holds one optimiser and one schedule, which goes by updates.

    Args:
        max_grad_norm: clip the gradient's norm to this; 0 does not clip.
        max_skipped: stop after so many updates in a row with a loss or a gradient that is not finite.
        section: of the settings that these two come from, for the message.
        ranks: the processes whose losses and gradients add up to an update's.

    Attributes:
        skipped: updates left out since the last ``reset``.
    """

    def __init__(self, max_grad_norm: float, max_skipped: int, section: str, ranks: Ranks = ALONE):
        self.max_grad_norm, self.max_skipped, self.section, self.ranks = max_grad_norm, max_skipped, section, ranks
        self.skipped = self.skipped_in_a_row = 0

    def take(
        self,
        module: lightning.LightningModule,
        model: nn.Module,
        losses: Iterable[tuple[Tensor, Metrics]],
        means: Means,
    ) -> bool:
        """One update of a model's parameters.

        Args:
            module: whose optimiser it is.
            model: what is updated.
            losses: the share of the loss that each of this process's micro-batches has, with its metrics as sums and
                counts; they are made one by one, each freed by its backward pass before the next.
            means: where these metrics go, and ``loss``, ``grad_norm`` and ``lr``.

        Returns:
            False where the update was skipped.

        Raises:
            TrainingDivergedError: after ``max_skipped`` skipped updates in a row.
        """
        optimizer, schedule = module.optimizers(), module.lr_schedulers()
        optimizer.zero_grad()
        shares = []
        for loss, sums in losses:
            module.manual_backward(loss)
            shares.append(loss.detach())
            means.add(sums)
        loss = self.ranks.sum(torch.stack(shares).sum() if shares else torch.zeros((), device=module.device))
        self.ranks.sum_gradients(model.parameters())
        norm = whole(torch.nn.utils.clip_grad_norm_(model.parameters(), self.max_grad_norm or float("inf")))
        means.add({"lr": (float(optimizer.param_groups[0]["lr"]), 1.0)})
        if not torch.isfinite(norm) & torch.isfinite(loss):
            self._skip(loss, norm)
            return False
        self.skipped_in_a_row = 0
        optimizer.step()
        schedule.step()
        means.add({"loss": (loss, 1.0), "grad_norm": (norm, 1.0)})
        return True

    def reset(self) -> None:
        """Count a step's ``skipped`` updates anew."""
        self.skipped = 0

    def _skip(self, loss: Tensor, norm: Tensor) -> None:
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= self.max_skipped:
            raise TrainingDivergedError(
                f"{self.skipped_in_a_row} updates in a row had a loss ({loss.item()}) or a gradient norm "
                f"({norm.item()}) that is not finite, and were skipped; lower optimizer.lr, set "
                f"{self.section}.max_grad_norm, or train in a wider trainer.precision. The last checkpoint is sound."
            )


def whole(value: Tensor) -> Tensor:
    """A figure over all shards, where it is one."""
    return value.full_tensor() if isinstance(value, DTensor) else value
