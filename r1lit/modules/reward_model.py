"""Training a reward model: Bradley-Terry over pairs, or cross-entropy over labels, as a LightningModule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import lightning
import torch
from torch import Tensor
from transformers import PreTrainedModel

from r1lit.data.module import StepBatch
from r1lit.data.preferences import Judgement
from r1lit.distributed.ranks import ALONE, Ranks
from r1lit.functional import Metrics, pairwise_correct, pairwise_loss, pointwise_correct, pointwise_loss
from r1lit.models.reward_model import row_scores
from r1lit.modules.compute import Work, training_work
from r1lit.modules.metrics import Means
from r1lit.modules.optimizer import apply_settings, build_optimizer
from r1lit.modules.settings import OptimizerSettings, RewardModelSettings
from r1lit.modules.timing import PhaseTimer
from r1lit.modules.update import Updates


class RewardModel(lightning.LightningModule):
    """A reward model and one update of it; its ``metrics`` have the names that TRL's trainer gave them.

    Args:
        model: a sequence-classification model with one label, its parameters in the dtype they are to be updated in.
        settings: of the loss and of the update.
        optimizer: the optimiser's settings.
        steps: updates of the whole run.
        ranks: the processes that share each batch.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        settings: RewardModelSettings,
        optimizer: OptimizerSettings,
        steps: int,
        ranks: Ranks = ALONE,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.reward_model, self.ranks = model, ranks
        self.settings, self.optimizer, self.total_steps = settings, optimizer, steps
        self.updates = Updates(settings.max_grad_norm, settings.max_skipped_updates, "reward_model", ranks)
        self.timer = PhaseTimer()
        self.metrics: dict[str, float] = {}
        self.work: dict[str, Work] = {}

    def on_train_start(self) -> None:
        # transformers loads models in evaluation mode, in which they would not checkpoint their activations.
        self.reward_model.train()
        # A resumed run goes by the settings it is given, not by those its checkpoint was saved under.
        apply_settings(self.optimizers().optimizer, self.lr_schedulers(), self.optimizer)

    def configure_model(self) -> None:
        """Whoever made the model has sharded it, where it is."""

    def training_step(self, batch: StepBatch, batch_idx: int) -> None:
        """One update on a batch of pairs or labelled replies."""
        _, judgements = batch
        means, scores = Means(), []
        self.updates.reset()
        with self.timer.phase("update"):
            self.updates.take(self, self.reward_model, self.losses(judgements, scores), means)
        given = torch.cat([part for parts in self.ranks.gather([part.cpu() for part in scores]) for part in parts])
        lengths = [len(row) for judgement in judgements for row in judgement.rows]
        self.work = training_work(self.reward_model, lengths, targets=0)
        self.metrics = {
            "mean_reward": given.mean().item(),
            "min_reward": given.min().item(),
            "max_reward": given.max().item(),
            "num_tokens": float(sum(lengths)),
            "updates_skipped": float(self.updates.skipped),
            "perf/flops": self.work["update"].flops,
            **means.read(self.ranks),
            **self.timer.pop(),
        }

    def losses(self, judgements: Sequence[Judgement], scores: list[Tensor]) -> Iterator[tuple[Tensor, Metrics]]:
        """Each micro-batch's share of the batch's mean loss, with its metrics as sums and counts; adds its scores to
        ``scores``. Rows of like length go together."""
        own = self.ranks.own([max(map(len, judgement.rows)) for judgement in judgements])
        ordered = sorted((judgements[place] for place in own), key=lambda judgement: -max(map(len, judgement.rows)))
        size = max(1, self.settings.micro_batch_rows // len(judgements[0].rows))
        parts = [ordered[start : start + size] for start in range(0, len(ordered), size)]
        for part, counts in self.ranks.level(parts, lambda: judgements[:1]):
            given = judgement_scores(self.reward_model, part)
            targets = torch.tensor([judgement.target for judgement in part], device=given.device)
            losses, measures = LOSSES[self.settings.kind](given, targets)
            if not counts:
                yield 0.0 * losses.sum(), {}
                continue
            scores.append(given.detach().flatten())
            sums = {name: (values.detach().float().sum(), float(len(part))) for name, values in measures.items()}
            yield losses.sum() / len(judgements), sums

    def configure_optimizers(self):
        optimizer, schedule = build_optimizer(self.reward_model, self.optimizer, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@torch.no_grad()
def shared_scores(model: PreTrainedModel, rows: Sequence[Sequence[int]], batch_rows: int, ranks: Ranks) -> Tensor:
    """float32 [N] on the host, without gradients: every process scores a share, in batches of rows of like length."""
    own = sorted(ranks.own([len(row) for row in rows]), key=lambda place: -len(rows[place]))
    parts = [own[start : start + batch_rows] for start in range(0, len(own), batch_rows)]
    scores = torch.zeros(len(rows), dtype=torch.float32)
    for part, counts in ranks.level(parts, lambda: [0]):
        given = row_scores(model, [rows[place] for place in part]).cpu()
        if counts:
            scores[part] = given
    return ranks.sum(scores)


def judgement_scores(model: PreTrainedModel, judgements: Sequence[Judgement]) -> Tensor:
    """float32 [K, P], the scores of the K replies (chosen and rejected, or one) of each of P judgements."""
    rows = [row for replies in zip(*(judgement.rows for judgement in judgements), strict=True) for row in replies]
    return row_scores(model, rows).view(-1, len(judgements))


def _pairwise(scores: Tensor, targets: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
    chosen, rejected = scores
    measures = {"accuracy": pairwise_correct(chosen, rejected), "margin": chosen - rejected}
    return pairwise_loss(chosen, rejected, targets), measures


def _pointwise(scores: Tensor, targets: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
    return pointwise_loss(scores[0], targets), {"accuracy": pointwise_correct(scores[0], targets)}


LOSSES: Mapping[str, Callable[[Tensor, Tensor], tuple[Tensor, Mapping[str, Tensor]]]] = {
    "pairwise": _pairwise,
    "pointwise": _pointwise,
}
"""By kind: from scores [K, P] and targets [P] to losses [P] and what is measured of each judgement."""
