"""The reward model's update: its loss and gradient by hand, whatever the micro-batches, in a real Lightning loop."""

from __future__ import annotations

import math
from types import SimpleNamespace

import lightning
import pytest
import torch
from torch.nn.functional import logsigmoid

from r1lit.data.module import StepDataModule
from r1lit.data.preferences import Judgement
from r1lit.models.loading import ModelSettings
from r1lit.models.reward_model import new_reward_model
from r1lit.modules.reward_model import RewardModel, judgement_scores
from r1lit.modules.settings import OptimizerSettings, RewardModelSettings
from r1lit.modules.update import TrainingDivergedError

WIDTHS = {"pairwise": 2, "pointwise": 1}


def judgements(kind: str, count: int = 7, start: int = 0) -> list[Judgement]:
    """Rows of many lengths; good ones end in 30 to 39, bad ones in 40 to 49."""
    made = []
    for number in range(start, start + count):
        rows = tuple(
            tuple(range(5, 8 + (number * 5 + side) % 6)) + (30 + 10 * side + number % 10,) * 2 for side in range(2)
        )
        bad = kind == "pointwise" and number % 2
        kept = rows if kind == "pairwise" else rows[1:] if bad else rows[:1]
        target = 0.25 * (number % 3) if kind == "pairwise" else 0.0 if bad else 1.0
        made.append(Judgement(kept, tuple(map(len, kept)), target))
    return made


def build(kind: str = "pairwise", lr: float = 1e-3, steps: int = 2, **settings) -> RewardModel:
    model, _ = new_reward_model(ModelSettings(path="tiny"), head_std=0.3, seed=1)
    return RewardModel(model, RewardModelSettings(kind=kind, **settings), OptimizerSettings(lr=lr), steps)


def train(module: RewardModel, batches: list[list[Judgement]]) -> list[dict[str, float]]:
    """A real Lightning fit over the batches; each step's metrics."""
    seen = []

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            seen.append(module.metrics)

    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, callbacks=[Watch()], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=StepDataModule(SimpleNamespace(batch=lambda step: batches[step]), len(batches)))
    return seen


def gradients(module: RewardModel, batch: list[Judgement]) -> tuple[float, list[torch.Tensor]]:
    module.zero_grad()
    total = 0.0
    for loss, _ in module.losses(batch, []):
        loss.backward()
        total += loss.item()
    return total, [parameter.grad.clone() for parameter in module.reward_model.parameters()]


def by_hand(module: RewardModel, batch: list[Judgement], kind: str) -> tuple[float, list[torch.Tensor]]:
    """A loop over the rows, each alone in the model, with the losses written out."""

    def score(row):
        return module.reward_model(torch.tensor([row])).logits[0, 0]

    module.zero_grad()
    loss = 0.0
    for judgement in batch:
        scores = [score(row) for row in judgement.rows]
        if kind == "pairwise":
            loss = loss - logsigmoid(scores[0] - scores[1] - judgement.target)
        else:
            loss = loss - logsigmoid(scores[0] if judgement.target else -scores[0])
    loss = loss / len(batch)
    loss.backward()
    return loss.item(), [parameter.grad.clone() for parameter in module.reward_model.parameters()]


@pytest.mark.parametrize("kind", WIDTHS)
def test_loss_and_gradient_by_hand_whatever_the_micro_batches(kind):
    batch = judgements(kind)
    expected_loss, expected = by_hand(build(kind), batch, kind)
    largest = max(gradient.abs().max().item() for gradient in expected)
    assert largest > 1e-2
    for rows in (1, 4, 64):
        loss, found = gradients(build(kind, micro_batch_rows=rows), batch)
        assert loss == pytest.approx(expected_loss, abs=1e-5)
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5 * largest)


@pytest.mark.parametrize("kind", WIDTHS)
def test_a_step_tells_what_happened(kind):
    batch, module = judgements(kind), build(kind, micro_batch_rows=4)
    with torch.no_grad():
        scores = judgement_scores(module.reward_model, batch)
    expected_loss, _ = by_hand(build(kind), batch, kind)
    (metrics,) = train(module, [batch])
    assert scores.shape == (WIDTHS[kind], 7)
    targets = torch.tensor([judgement.target for judgement in batch])
    right = scores[0] > scores[1] if kind == "pairwise" else (scores[0] > 0) == (targets > 0.5)
    expected = {
        "loss": expected_loss,
        "accuracy": right.float().mean().item(),
        "mean_reward": scores.mean().item(),
        "min_reward": scores.min().item(),
        "max_reward": scores.max().item(),
        "num_tokens": sum(len(row) for judgement in batch for row in judgement.rows),
        "lr": 1e-3,
        "updates_skipped": 0,
    }
    if kind == "pairwise":
        expected["margin"] = (scores[0] - scores[1]).mean().item()
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert metrics["grad_norm"] > 0 and metrics["time/update"] > 0
    assert ("margin" in metrics) == (kind == "pairwise")


@pytest.mark.parametrize("kind", WIDTHS)
def test_training_learns_to_tell_good_from_bad(kind):
    batches = [judgements(kind, 16, start=16 * step) for step in range(40)]
    metrics = train(build(kind, steps=40), batches)
    assert sum(step["accuracy"] for step in metrics[-5:]) / 5 > 0.9
    assert sum(step["loss"] for step in metrics[-5:]) < 0.5 * sum(step["loss"] for step in metrics[:5])


def test_the_same_batches_train_to_the_same_bits():
    def final() -> list[torch.Tensor]:
        module = build()
        train(module, [judgements("pairwise"), judgements("pairwise", start=7)])
        return [parameter.detach().clone() for parameter in module.reward_model.parameters()]

    assert all(torch.equal(one, other) for one, other in zip(final(), final(), strict=True))


def test_an_update_that_is_not_finite_is_skipped_then_stops_the_run():
    module = build(max_skipped_updates=2, steps=3)
    before = [parameter.detach().clone() for parameter in module.reward_model.parameters()]
    poisoned = [Judgement(judgement.rows, judgement.lengths, math.nan) for judgement in judgements("pairwise")]
    with pytest.raises(TrainingDivergedError, match=r"2 updates in a row.*reward_model.max_grad_norm"):
        train(module, [poisoned] * 3)
    assert module.metrics["updates_skipped"] == 1 and "loss" not in module.metrics
    assert all(torch.equal(one, other) for one, other in zip(before, module.reward_model.parameters(), strict=True))


def test_settings_that_make_no_sense_are_told():
    with pytest.raises(ValueError, match="has no pairs whose lengths"):
        RewardModelSettings(kind="pointwise", balance_lengths=True)
