"""Supervised fine-tuning on demonstrations, as a LightningModule."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import lightning
import torch
from torch import Tensor
from transformers import PreTrainedModel

from r1lit.data.demonstrations import Demonstration
from r1lit.data.module import StepBatch
from r1lit.distributed.passes import own_passes
from r1lit.distributed.ranks import ALONE, Ranks
from r1lit.functional import Metrics, supervised_loss
from r1lit.models.logprobs import target_predictions
from r1lit.models.packing import Packed, Packing
from r1lit.modules.compute import Work, training_work
from r1lit.modules.metrics import Means
from r1lit.modules.optimizer import apply_settings, build_optimizer
from r1lit.modules.settings import OptimizerSettings, SFTSettings
from r1lit.modules.timing import PhaseTimer
from r1lit.modules.update import Updates


class SFT(lightning.LightningModule):
    """A policy and one update of it on demonstrations; its ``metrics`` have the names that TRL's trainer gave them.

    Args:
        policy: a causal LM, its parameters in the dtype they are to be updated in.
        settings: of the loss and of the update.
        optimizer: the optimiser's settings.
        steps: updates of the whole run.
        rows: demonstrations there are to train on, which make an epoch.
        packing: whether demonstrations share the rows of a pass.
        ranks: the processes that share each batch.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        settings: SFTSettings,
        optimizer: OptimizerSettings,
        steps: int,
        rows: int,
        packing: Packing = "auto",
        ranks: Ranks = ALONE,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.policy, self.ranks = policy, ranks
        self.settings, self.optimizer, self.total_steps, self.rows = settings, optimizer, steps, rows
        self.packing = packing
        self.updates = Updates(settings.max_grad_norm, settings.max_skipped_updates, "sft", ranks)
        self.timer = PhaseTimer()
        self.metrics: dict[str, float] = {}
        self.work: dict[str, Work] = {}

    def on_train_start(self) -> None:
        # transformers loads models in evaluation mode, in which they would not checkpoint their activations.
        self.policy.train()
        # A resumed run goes by the settings it is given, not by those its checkpoint was saved under.
        apply_settings(self.optimizers().optimizer, self.lr_schedulers(), self.optimizer)

    def configure_model(self) -> None:
        """Whoever made the model has sharded it, where it is."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what ends an answer, which the demonstrations say: an export from here needs it."""
        checkpoint["stop_ids"] = self.policy.generation_config.eos_token_id

    def training_step(self, batch: StepBatch, batch_idx: int) -> None:
        """One update on a batch of demonstrations."""
        step, demonstrations = batch
        means = Means()
        self.updates.reset()
        with self.timer.phase("update"):
            self.updates.take(self, self.policy, self.losses(demonstrations), means)
        lengths = [len(demonstration.ids) for demonstration in demonstrations]
        self.work = training_work(self.policy, lengths, trained_tokens(demonstrations))
        self.metrics = {
            "num_tokens": float(sum(lengths)),
            "epoch": (step + 1) * self.settings.batch_size / self.rows,
            "updates_skipped": float(self.updates.skipped),
            "perf/flops": self.work["update"].flops,
            **means.read(self.ranks),
            **self.timer.pop(),
        }

    def losses(self, demonstrations: Sequence[Demonstration]) -> Iterator[tuple[Tensor, Metrics]]:
        """Each micro-batch's share of the update's loss, with its metrics as sums and counts."""
        trained = trained_tokens(demonstrations)
        for part, counts in self.parts(demonstrations):
            logprobs, sums = predictions(self.policy, part)
            loss = supervised_loss(
                logprobs,
                self.settings.normalize,
                total_tokens=trained,
                total_rows=len(demonstrations),
                tokens_per_row=self.settings.tokens_per_sample,
            )
            yield (loss, sums) if counts else (0.0 * loss, {})

    def parts(self, demonstrations: Sequence[Demonstration]) -> Iterator[tuple[Packed, bool]]:
        """This process's demonstrations in passes that fit into memory, and whether a pass counts."""
        return own_passes(self.policy, demonstrations, self.settings.micro_batch_tokens, self.packing, self.ranks)

    def configure_optimizers(self):
        optimizer, schedule = build_optimizer(self.policy, self.optimizer, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def trained_tokens(demonstrations: Sequence[Demonstration]) -> int:
    """Tokens that the loss counts."""
    return sum(sum(demonstration.trained[1:]) for demonstration in demonstrations)


def predictions(policy: PreTrainedModel, part: Packed) -> tuple[Tensor, Metrics]:
    """The log-probabilities [M] of a pass's trained tokens, and what is measured of them."""
    logprobs, entropy, right = target_predictions(policy, part)
    count = float(len(logprobs))
    return logprobs, {"mean_token_accuracy": (right.float().sum(), count), "entropy": (entropy.sum(), count)}


@torch.no_grad()
def demonstration_figures(
    policy: PreTrainedModel,
    demonstrations: Sequence[Demonstration],
    settings: SFTSettings,
    packing: Packing = "auto",
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """How well a policy foretells demonstrations: the mean over their trained tokens of loss and accuracy."""
    means = Means()
    for part, counts in own_passes(policy, demonstrations, settings.micro_batch_tokens, packing, ranks):
        logprobs, sums = predictions(policy, part)
        if counts:
            means.add(sums | {"loss": (-logprobs.double().sum(), float(len(logprobs)))})
    figures = means.read(ranks)
    loss = figures["loss"]
    return {
        "loss": loss,
        # Beyond what a float holds it is no figure any more.
        "perplexity": math.exp(loss) if loss < 700 else math.inf,
        "mean_token_accuracy": figures["mean_token_accuracy"],
        "entropy": figures["entropy"],
        "trained_tokens": trained_tokens(demonstrations),
        "demonstrations": len(demonstrations),
    }
