"""Confidence intervals over a handful of runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, stdev

_T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_NORMAL_975 = 1.960


def seeds_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95 % interval of the mean over independent runs, such as seeds; None for a single one.

    >>> [round(bound, 3) for bound in seeds_interval([1.0, 2.0, 3.0])]
    [-0.484, 4.484]
    >>> seeds_interval([0.5])
    """
    if len(values) < 2:
        return None
    quantile = _T_975[len(values) - 2] if len(values) - 2 < len(_T_975) else _NORMAL_975
    half = quantile * stdev(values) / math.sqrt(len(values))
    return mean(values) - half, mean(values) + half
