"""Losses of reward models, and how far their scores can be trusted."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid


def pairwise_loss(chosen: Tensor, rejected: Tensor, margins: Tensor | None = None) -> Tensor:
    """Bradley-Terry: ``-log sigmoid(r_chosen - r_rejected - margin)`` a pair (2203.02155, eq. 1; the margin is
    2307.09288's, eq. 2).

    Shapes: chosen, rejected and margins float [P] -> [P], in nats.

    >>> pairwise_loss(torch.tensor([1.0, 1.0]), torch.tensor([1.0, -1.0]), torch.tensor([0.0, 2.0]))
    tensor([0.6931, 0.6931])
    """
    differences = chosen - rejected
    return -logsigmoid(differences if margins is None else differences - margins)


def pointwise_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the probability ``sigmoid(score)`` and a label in [0, 1], a row.

    Shapes: scores and labels float [N] -> [N], in nats.

    >>> pointwise_loss(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 1.0]))
    tensor([0.6931, 0.1269])
    """
    return binary_cross_entropy_with_logits(scores, labels, reduction="none")


def pairwise_correct(chosen: Tensor, rejected: Tensor) -> Tensor:
    """bool [P], True where the chosen reply scores higher; equal scores decide nothing and count as wrong.

    Shapes: [P] both.
    """
    return chosen > rejected


def pointwise_correct(scores: Tensor, labels: Tensor) -> Tensor:
    """bool [N], True where a score has the sign that its label, rounded, asks for; a score of 0 counts as wrong.

    Shapes: [N] both.
    """
    return torch.where(labels > 0.5, scores > 0, scores < 0)


def calibration_error(probabilities: Tensor, outcomes: Tensor, bins: int = 10) -> float:
    """Expected calibration error: how far stated probabilities are from what comes true, over bins of equal width,
    weighted by the rows in each (1706.04599, eq. 3).

    Shapes: probabilities and outcomes, both in [0, 1], [N].

    Raises:
        ValueError: for fewer than one bin.

    >>> round(calibration_error(torch.tensor([0.9, 0.9, 0.2]), torch.tensor([1.0, 0.0, 0.0])), 4)
    0.3333
    """
    if bins < 1:
        raise ValueError(f"bins={bins}, but probabilities are compared bin by bin; pass 1 or more")
    probabilities, outcomes = probabilities.double(), outcomes.double()
    # A probability on an edge belongs to the bin below, and 0 to the first.
    places = (probabilities * bins).ceil().clamp(1, bins).long() - 1
    gaps = probabilities.new_zeros(bins).index_add_(0, places, probabilities - outcomes)
    return gaps.abs().sum().item() / len(probabilities)


def brier_score(probabilities: Tensor, outcomes: Tensor) -> float:
    """Mean square of what lies between the stated probability and what came true; always saying 0.5 gives 0.25.

    Shapes: [N] both.
    """
    return (probabilities.double() - outcomes.double()).square().mean().item()


def correlation(first: Tensor, second: Tensor) -> float | None:
    """Pearson's correlation; None where either is the same everywhere.

    Shapes: [N] both.

    >>> round(correlation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([5.0, 3.0, 1.0])), 6)
    -1.0
    """
    if any((values == values[0]).all() for values in (first, second)):
        return None
    first, second = (values.double() - values.double().mean() for values in (first, second))
    return (first @ second / (first.norm() * second.norm())).clamp(-1, 1).item()
