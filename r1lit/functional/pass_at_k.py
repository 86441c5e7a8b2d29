"""Accuracy over several samples of a prompt: pass@k, cons@k, and how sure a mean is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from statistics import NormalDist
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

Answer = TypeVar("Answer", bound=Hashable)


class Interval(NamedTuple):
    """A mean and the bounds of its confidence interval."""

    mean: float
    low: float
    high: float


def pass_at_k(samples: Tensor | Sequence[int] | int, correct: Tensor | Sequence[int] | int, k: int) -> Tensor:
    """Probability that one of k samples is right, unbiased: ``1 - C(n - c, k) / C(n, k)`` (2107.03374, eq. 1).

    The quotient is taken as the product over j < k of ``(n - c - j) / (n - j)``, whose factors lie in [0, 1].

    Shapes: samples n and correct c, [B] or a single number -> float64 [B].

    Raises:
        ValueError: where not 1 <= k <= n, or not 0 <= c <= n.

    >>> pass_at_k(4, [0, 1, 2, 4], k=2)
    tensor([0.0000, 0.5000, 0.8333, 1.0000], dtype=torch.float64)
    """
    n, c = torch.broadcast_tensors(torch.as_tensor(samples).double(), torch.as_tensor(correct).double())
    if k < 1 or (n < k).any():
        raise ValueError(f"k={k} of n={n.min().item():g} samples, but k samples are drawn of n; pass 1 <= k <= n")
    if (c < 0).any() or (c > n).any():
        raise ValueError(f"{c.max().item():g} correct of {n.min().item():g} samples; pass 0 <= correct <= samples")
    drawn = torch.arange(k, dtype=torch.float64, device=n.device)
    n, c = n.unsqueeze(-1), c.unsqueeze(-1)
    return 1 - ((n - c - drawn).clamp(min=0) / (n - drawn)).prod(-1)


def majority_vote(answers: Iterable[Answer | None]) -> Answer | None:
    """The most frequent answer (cons@k, 2203.11171), the earliest of equals; None only where no answer was given.

    >>> majority_vote(["7", None, "5", "5", "7", None, None])
    '7'
    """
    votes = Counter(answer for answer in answers if answer is not None)
    return max(votes, key=votes.__getitem__, default=None)


def mean_interval(values: Tensor | Sequence[float], level: float = 0.95) -> Interval:
    """The mean of per-prompt figures in [0, 1] and its confidence interval.

    Prompts are the unit, for the samples of one prompt are alike: SE is the standard error over prompts (clustered, as
    in 2411.00640, section 2.2). Wilson's interval (1927) is taken with the effective sample size
    ``n_eff = p (1 - p) / SE^2`` (Korn and Graubard 1998), the number of prompts where all are equal, and keeps within
    [0, 1] near the ends, where ``p +- z SE`` does not.

    Shapes: values [B].

    Raises:
        ValueError: where there is no value, one outside [0, 1] or NaN, or the level is not between 0 and 1.

    >>> mean, low, high = mean_interval([1.0, 0.0, 0.5, 0.5])
    >>> f"{mean:.2f} [{low:.2f}, {high:.2f}]"
    '0.50 [0.19, 0.81]'
    """
    values = torch.as_tensor(values, dtype=torch.float64).flatten()
    if not len(values) or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"{len(values)} values {values.tolist()[:8]}; pass at least one, each a share in [0, 1]")
    if not 0 < level < 1:
        raise ValueError(f"level={level}, but it is a probability; pass 0 < level < 1, as 0.95")
    count, p = len(values), values.mean().item()
    if (values == values[0]).all():
        p, effective = values[0].item(), float(count)
    else:
        effective = p * (1 - p) / (values.var().item() / count)
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    centre = (p + z2 / (2 * effective)) / (1 + z2 / effective)
    half = math.sqrt(z2 * (p * (1 - p) + z2 / (4 * effective)) / effective) / (1 + z2 / effective)
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half))
