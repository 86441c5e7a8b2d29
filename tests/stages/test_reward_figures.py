"""What is said of a reward model, against numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch

from r1lit.data.preferences import Judgement
from r1lit.stages.reward_figures import reward_figures


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_pairs_by_hand():
    """Differences of 2, -1, 0 and 1; the longer reply is chosen in the first and the second, the shorter in the last.
    The model prefers the longer one in the first of these three alone."""
    scores = torch.tensor([[2.0, 0.0, 1.0, 0.5], [0.0, 1.0, 1.0, -0.5]])
    lengths = [(9, 3), (5, 4), (4, 4), (2, 6)]
    pairs = [Judgement(((1,), (2,)), pair, margin) for pair, margin in zip(lengths, (0, 0, 0, 0.5), strict=True)]
    figures = reward_figures("pairwise", scores, pairs)
    assert figures["accuracy"] == 0.5 and figures["ci95"][0] < 0.5 < figures["ci95"][1]
    assert figures["judgements"] == 4
    losses = [-math.log(sigmoid(difference)) for difference in (2, -1, 0, 0.5)]
    sure = {sigmoid(2): 1, sigmoid(1): 0.5, sigmoid(0): 0}
    counts = {sigmoid(2): 1, sigmoid(1): 2, sigmoid(0): 1}
    expected = {
        "loss": sum(losses) / 4,
        "margin": 0.5,
        "calibration_error": sum(counts[p] * abs(p - sure[p]) for p in sure) / 4,
        "brier": sum((1 - sigmoid(difference)) ** 2 for difference in (2, -1, 0, 1)) / 4,
        "longer_preferred": 1 / 3,
        "longer_chosen": 2 / 3,
        "mean_reward": 5 / 8,
    }
    assert {name: figures[name] for name in expected} == pytest.approx(expected)
    flat, long = torch.tensor([2.0, 0, 1, 0.5, 0, 1, 1, -0.5]), torch.tensor([9.0, 5, 4, 2, 3, 4, 4, 6])
    assert figures["length_correlation"] == pytest.approx(torch.corrcoef(torch.stack([flat, long]))[0, 1].item())
    differences = torch.tensor([[2.0, -1, 0, 1], [6, 1, 0, -4]])
    assert figures["margin_length_correlation"] == pytest.approx(torch.corrcoef(differences)[0, 1].item())
    assert figures["std_reward"] == pytest.approx(flat.std(correction=0).item())


def test_labels_by_hand():
    scores = torch.tensor([[2.0, -1.0, 1.0, -3.0]])
    points = [Judgement(((1,),), (n,), label) for n, label in ((3, 1.0), (4, 1.0), (5, 0.0), (6, 0.0))]
    figures = reward_figures("pointwise", scores, points)
    stated = [sigmoid(score) for score in (2, -1, 1, -3)]
    expected = {
        "accuracy": 0.5,
        "loss": -sum(map(math.log, (stated[0], stated[1], 1 - stated[2], 1 - stated[3]))) / 4,
        "margin": 0.5 - -1.0,
        # Each alone in its bin.
        "calibration_error": ((1 - stated[0]) + (1 - stated[1]) + stated[2] + stated[3]) / 4,
        "brier": ((1 - stated[0]) ** 2 + (1 - stated[1]) ** 2 + stated[2] ** 2 + stated[3] ** 2) / 4,
        "positive": 0.5,
    }
    assert {name: figures[name] for name in expected} == pytest.approx(expected)


def test_what_cannot_be_told_is_none():
    scores = torch.zeros(2, 2)
    pairs = [Judgement(((1,), (2,)), (4, 4), 0.0)] * 2
    figures = reward_figures("pairwise", scores, pairs)
    assert figures["accuracy"] == 0.0 and figures["calibration_error"] == 0.5
    for name in ("length_correlation", "margin_length_correlation", "longer_preferred", "longer_chosen"):
        assert figures[name] is None
    only_good = reward_figures("pointwise", torch.tensor([[1.0]]), [Judgement(((1,),), (3,), 1.0)])
    assert only_good["margin"] is None and only_good["positive"] == 1.0
