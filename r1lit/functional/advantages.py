"""How much better a completion is than the others of its group."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from r1lit.functional.variants import pick


class _Centred(NamedTuple):
    """Rewards of B groups of G rows, float64 [B, G]: deviation from the group's mean, total, and who was judged."""

    deviation: Tensor
    total: Tensor
    judged: Tensor


def group_advantages(
    columns: Tensor, weights: Tensor, group_size: int, scale: str = "group", eps: float = 1e-4
) -> Tensor:
    """Advantage of each row over the other rows of its group (DeepSeekMath, 2402.03300, section 4.1.2).

    With r_ik reward k of row i and mean_k its mean over the rows of the group that have it, the deviation is
    ``c_i = sum_k w_k (r_ik - mean_k)`` over the rewards the row has: a missing reward neither helps nor harms. Without
    missing rewards that is the row's total less the group's mean total. ``scale`` says what c is divided by:

    - ``group``: the standard deviation (unbiased) of c over the judged rows of the group, plus eps (GRPO);
    - ``batch``: that of the totals of all judged rows, a missing reward counted at its group's mean, plus eps;
    - ``none``: nothing (Dr. GRPO, 2503.20783).

    Shapes: columns [N, R], prompt-major, NaN = no reward; weights [R], 0 = a metric only -> [N]. A row without any
    reward of non-zero weight is not judged and gets 0.

    Raises:
        ValueError: where N is no multiple of the group size, a reward is infinite, or the scale is unknown.

    >>> group_advantages(torch.tensor([[1.0], [0.0], [0.5], [0.5]]), torch.ones(1), 2, scale="none")
    tensor([ 0.5000, -0.5000,  0.0000,  0.0000])
    """
    divide = pick("scale", scale, _SCALES)
    return divide(_centre(columns, weights, group_size), eps).flatten().to(columns.dtype)


def has_variance(columns: Tensor, weights: Tensor, group_size: int) -> Tensor:
    """The groups that teach something: True where a row of the group is better than another.

    Shapes: columns [N, R], weights [R] -> bool [B].

    >>> has_variance(torch.tensor([[1.0], [0.0], [0.5], [0.5]]), torch.ones(1), 2)
    tensor([ True, False])
    """
    return _centre(columns, weights, group_size).deviation.abs().amax(-1) > 1e-6


def _centre(columns: Tensor, weights: Tensor, group_size: int) -> _Centred:
    if group_size < 1 or len(columns) % group_size:
        raise ValueError(
            f"{len(columns)} rows and group_size={group_size}, but rows come in whole groups; pass all G rows of each"
        )
    if columns.isinf().any():
        raise ValueError("a reward is infinite, but means need finite rewards; return a finite number, or NaN for none")
    # In float64 the mean of equal float32 rewards is exact, so that a group of equals gets 0 and not rounding noise.
    rewards, weights = columns.double().unflatten(0, (-1, group_size)), weights.to(columns.device).double()
    mean = rewards.nanmean(1, keepdim=True)
    deviation = ((rewards - mean).nan_to_num() * weights).sum(-1)
    return _Centred(
        deviation=deviation,
        total=deviation + (mean.nan_to_num() * weights).sum(-1),
        judged=(~rewards.isnan() & (weights != 0)).any(-1),
    )


def _by_group(rewards: _Centred, eps: float) -> Tensor:
    # The deviations of a group sum to 0 with or without missing rewards: their mean need not be taken off.
    freedom = (rewards.judged.sum(-1, keepdim=True) - 1).clamp(min=1)
    return rewards.deviation / ((rewards.deviation.square().sum(-1, keepdim=True) / freedom).sqrt() + eps)


def _by_batch(rewards: _Centred, eps: float) -> Tensor:
    totals = rewards.total[rewards.judged]
    spread = totals.std() if len(totals) > 1 else torch.zeros(())
    return rewards.deviation / (spread + eps)


def _by_nothing(rewards: _Centred, eps: float) -> Tensor:
    return rewards.deviation


_SCALES = {"group": _by_group, "batch": _by_batch, "none": _by_nothing}
