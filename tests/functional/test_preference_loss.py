"""Reward models' losses and figures, against TRL's own trainer, numpy and numbers by hand."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForSequenceClassification
from trl import RewardConfig, RewardTrainer

from r1lit.functional import (
    brier_score,
    calibration_error,
    correlation,
    pairwise_correct,
    pairwise_loss,
    pointwise_correct,
    pointwise_loss,
)

CHOSEN = torch.tensor([2.0, -1.0, 0.5, 40.0], dtype=torch.float64)
REJECTED = torch.tensor([1.0, 1.5, 0.5, -60.0], dtype=torch.float64)
MARGINS = torch.tensor([0.0, 0.5, -1.0, 3.0], dtype=torch.float64)


def by_hand(difference: float) -> float:
    return math.log1p(math.exp(-difference)) if difference > -30 else -difference


@pytest.mark.parametrize("margins", [None, MARGINS])
def test_the_pairwise_loss_by_hand(margins):
    differences = (CHOSEN - REJECTED - (0 if margins is None else margins)).tolist()
    expected = torch.tensor([by_hand(d) for d in differences], dtype=torch.float64)
    torch.testing.assert_close(pairwise_loss(CHOSEN, REJECTED, margins), expected, rtol=1e-12, atol=0)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    words = ["<pad>", "<eos>", *(f"w{i}" for i in range(30))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w0"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>")
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Qwen2Config(
        vocab_size=32, num_key_value_heads=2, num_labels=1, pad_token_id=0, initializer_range=0.5, **size
    )
    torch.manual_seed(0)
    rows = {
        "prompt": ["w1 w2"] * 4,
        "chosen": [" w3 w4", " w5", " w6", " w7"],
        "rejected": [" w8", " w9", " w1", " w2"],
    }
    return RewardTrainer(
        model=Qwen2ForSequenceClassification(config).double(),
        args=RewardConfig(output_dir=str(tmp_path_factory.mktemp("trl")), report_to="none", use_cpu=True, bf16=False),
        train_dataset=Dataset.from_dict({**rows, "margin": MARGINS.tolist()}),
        processing_class=tokenizer,
    )


@pytest.mark.parametrize("margins", [True, False])
def test_loss_and_gradient_are_those_of_trls_trainer(trainer, margins):
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(4)])
    if not margins:
        del batch["margin"]
    trainer.model.zero_grad()
    expected = trainer.compute_loss(trainer.model, dict(batch))
    expected.backward()
    theirs = [parameter.grad.clone() for parameter in trainer.model.parameters()]
    trainer.model.zero_grad()
    scores = trainer.model(batch["input_ids"], batch["attention_mask"]).logits[:, 0]
    loss = pairwise_loss(*scores.chunk(2), batch.get("margin")).mean()
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    for parameter, gradient in zip(trainer.model.parameters(), theirs, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-15)
    assert max(gradient.abs().max().item() for gradient in theirs) > 0.1
    assert trainer._metrics["train"]["accuracy"][-1] == pairwise_correct(*scores.chunk(2)).float().mean()


def test_the_pointwise_loss_by_hand():
    scores, labels = torch.tensor([3.0, -2.0, 0.0, -80.0]).double(), torch.tensor([1.0, 1.0, 0.25, 0.0]).double()
    expected = [by_hand(3.0), by_hand(-2.0), math.log(2.0), 0.0]
    torch.testing.assert_close(pointwise_loss(scores, labels), torch.tensor(expected).double(), rtol=1e-7, atol=1e-12)


def test_ties_are_no_right_answers():
    assert pairwise_correct(CHOSEN, REJECTED).tolist() == [True, False, False, True]
    scores, labels = torch.tensor([1.0, -1.0, 0.0, 0.0, -2.0]), torch.tensor([1.0, 0.8, 1.0, 0.0, 0.2])
    assert pointwise_correct(scores, labels).tolist() == [True, False, False, False, True]


def test_calibration_by_hand():
    """Two bins: 0.2 and 0.4 came true once in two (gap 0.2), 0.6, 0.8 and 1.0 always (gap 0.2)."""
    stated, true = torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0]), torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0])
    assert calibration_error(stated, true, bins=2) == pytest.approx((2 * 0.2 + 3 * 0.2) / 5)
    assert calibration_error(stated, true, bins=1) == pytest.approx(0.2)
    assert brier_score(stated, true) == pytest.approx((0.04 + 0.36 + 0.16 + 0.04) / 5)


def test_calibration_by_a_loop_over_bins():
    generator = torch.Generator().manual_seed(0)
    stated = torch.rand(2000, generator=generator).double()
    stated[:3] = torch.tensor([0.0, 0.3, 1.0])
    true = (torch.rand(2000, generator=generator) < stated**2).double()
    total = 0.0
    for place in range(10):
        low, high = place / 10, (place + 1) / 10
        inside = (stated > low) & (stated <= high) | ((stated == 0) if place == 0 else False)
        if inside.any():
            total += inside.double().mean().item() * abs((stated[inside].mean() - true[inside].mean()).item())
    assert calibration_error(stated, true) == pytest.approx(total, abs=1e-9)
    honest = (torch.rand(2000, generator=generator) < stated).double()
    assert calibration_error(stated, honest) < 0.03 < 0.1 < calibration_error(stated, true)


def test_calibration_needs_bins():
    with pytest.raises(ValueError, match="bins=0"):
        calibration_error(torch.rand(3), torch.ones(3), bins=0)


def test_correlation_is_numpys():
    generator = torch.Generator().manual_seed(1)
    scores, lengths = torch.randn(50, generator=generator), torch.randint(1, 99, (50,), generator=generator)
    expected = numpy.corrcoef(scores.double().numpy(), lengths.numpy())[0, 1]
    assert correlation(scores, lengths) == pytest.approx(expected, abs=1e-12)
    assert correlation(lengths, 3 * lengths - 2) == pytest.approx(1.0)
    assert correlation(torch.full((5,), 0.1), torch.arange(5)) is None
