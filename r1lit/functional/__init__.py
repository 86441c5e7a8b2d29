"""Pure tensor functions: torch only, no state, no configuration."""

from __future__ import annotations

from r1lit.functional.advantages import group_advantages, has_variance
from r1lit.functional.head import head_logprobs, head_predictions
from r1lit.functional.intervals import seeds_interval
from r1lit.functional.logprobs import entropy, token_logprobs
from r1lit.functional.pass_at_k import Interval, majority_vote, mean_interval, pass_at_k
from r1lit.functional.policy_loss import (
    Metrics,
    Objective,
    cispo,
    clipped,
    importance_ratio,
    kl_estimate,
    policy_loss,
    sapo,
)
from r1lit.functional.preference_loss import (
    brier_score,
    calibration_error,
    correlation,
    pairwise_correct,
    pairwise_loss,
    pointwise_correct,
    pointwise_loss,
)
from r1lit.functional.sampling_correction import sampling_difference, sampling_ratio
from r1lit.functional.supervised_loss import supervised_loss
from r1lit.functional.token_loss import token_weights

__all__ = [
    "Interval",
    "Metrics",
    "Objective",
    "brier_score",
    "calibration_error",
    "cispo",
    "clipped",
    "correlation",
    "entropy",
    "group_advantages",
    "has_variance",
    "head_logprobs",
    "head_predictions",
    "importance_ratio",
    "kl_estimate",
    "majority_vote",
    "mean_interval",
    "pairwise_correct",
    "pairwise_loss",
    "pass_at_k",
    "pointwise_correct",
    "pointwise_loss",
    "policy_loss",
    "sampling_difference",
    "sampling_ratio",
    "sapo",
    "seeds_interval",
    "supervised_loss",
    "token_logprobs",
    "token_weights",
]
