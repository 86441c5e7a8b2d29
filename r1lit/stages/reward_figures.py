"""How well a reward model judges replies that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from r1lit.data.preferences import Judgement
from r1lit.functional import (
    brier_score,
    calibration_error,
    correlation,
    mean_interval,
    pairwise_correct,
    pairwise_loss,
    pointwise_correct,
    pointwise_loss,
)


def reward_figures(kind: str, scores: Tensor, judgements: Sequence[Judgement]) -> dict[str, Any]:
    """What the scores of some judged replies say about the model.

    Every kind has ``loss``, ``accuracy`` and its interval ``ci95``, ``calibration_error`` and ``brier`` of the
    probability that the scores state, ``length_correlation`` of scores and reply lengths, ``margin`` (how much higher
    good replies score than bad ones, None where there are no bad ones), mean and deviation of the scores.

    Shapes: scores float [K, P], of the K replies of each of P judgements.
    """
    scores = scores.double()
    lengths = torch.tensor([judgement.lengths for judgement in judgements], dtype=torch.float64).T
    targets = torch.tensor([judgement.target for judgement in judgements], dtype=torch.float64)
    correct, figures = FIGURES[kind](scores, targets, lengths)
    accuracy, low, high = mean_interval(correct.double())
    return {
        "accuracy": accuracy,
        "ci95": [low, high],
        **figures,
        "length_correlation": correlation(scores.flatten(), lengths.flatten()),
        "mean_reward": scores.mean().item(),
        "std_reward": scores.std(correction=0).item(),
        "judgements": len(judgements),
    }


def _pairwise(scores: Tensor, targets: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Any]]:
    chosen, rejected = scores
    difference, longer = chosen - rejected, lengths[0] - lengths[1]
    correct, apart = pairwise_correct(chosen, rejected), longer != 0
    return correct, {
        "loss": pairwise_loss(chosen, rejected, targets).mean().item(),
        "margin": difference.mean().item(),
        # How sure the model is of the reply that it prefers, and how often that is the chosen one.
        "calibration_error": calibration_error(difference.abs().sigmoid(), correct),
        "brier": brier_score(difference.sigmoid(), torch.ones_like(difference)),
        "margin_length_correlation": correlation(difference, longer),
        # Of the replies that differ in length: how often the model, and how often the data, prefers the longer one.
        "longer_preferred": _share(difference[apart] * longer[apart] > 0),
        "longer_chosen": _share(longer[apart] > 0),
    }


def _pointwise(scores: Tensor, targets: Tensor, lengths: Tensor) -> tuple[Tensor, dict[str, Any]]:
    (scores,) = scores
    good = targets > 0.5
    margin = scores[good].mean() - scores[~good].mean() if good.any() and not good.all() else None
    return pointwise_correct(scores, targets), {
        "loss": pointwise_loss(scores, targets).mean().item(),
        "margin": None if margin is None else margin.item(),
        "calibration_error": calibration_error(scores.sigmoid(), targets),
        "brier": brier_score(scores.sigmoid(), targets),
        "positive": good.double().mean().item(),
    }


FIGURES: Mapping[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, dict[str, Any]]]] = {
    "pairwise": _pairwise,
    "pointwise": _pointwise,
}
"""By kind: from scores [K, P], targets [P] and reply lengths [K, P] to which judgements are right [P], and figures."""


def _share(flags: Tensor) -> float | None:
    return flags.double().mean().item() if len(flags) else None
