"""How sure a number is: t-intervals over server restarts, ratios, and Holm's correction. Pure.

Formulas: Student's t-interval of a mean; a ratio is the t-interval of the mean difference of logs
(paired by position, else Welch's), exponentiated; several comparisons are corrected by Holm's step-down
procedure (Holm 1979). What verdicts are made of is in harness/numbers/verdicts.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

from harness.schema import Interval

CONFIDENCE = 0.95
Restarts = Mapping[int, float]
"""Restart number -> output throughput, tokens/s."""


class LogRatio(NamedTuple):
    """Mean difference of logs, its standard error and degrees of freedom."""

    mean: float
    error: float
    freedom: float
    num: int


def interval(values: Sequence[float]) -> Interval:
    """Mean of `values` (one per restart) with its 95 % t-interval; no width for a single value.

    Raises ValueError when there are none.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        raise ValueError("an interval needs at least one value")
    mean = float(data.mean())
    half = _half_width(_standard_error(data), data.size - 1) if data.size > 1 else 0.0
    low = max(mean - half, 0.0) if np.all(data >= 0) else mean - half  # no rate is below 0
    return Interval(mean=mean, low=low, high=mean + half, num=int(data.size))


def ratio(a_values: Sequence[float], b_values: Sequence[float], *, paired: bool = True) -> Interval | None:
    """a / b with its 95 % interval; None when a value is not positive.

    Pairs by position when `paired` and the lengths agree. `num` is the smaller number of restarts.
    """
    estimate = _log_ratio(a_values, b_values, paired=paired)
    if estimate is None:
        return None
    half = _half_width(estimate.error, estimate.freedom) if estimate.freedom > 0 else 0.0
    bounds = (estimate.mean, estimate.mean - half, estimate.mean + half)
    mean, low, high = (math.exp(bound) for bound in bounds)
    return Interval(mean=mean, low=low, high=high, num=estimate.num)


def p_value(a_values: Sequence[float], b_values: Sequence[float], *, paired: bool = True) -> float | None:
    """Two-sided p of "a / b is 1"; None where there is no interval (fewer than two restarts)."""
    estimate = _log_ratio(a_values, b_values, paired=paired)
    if estimate is None or estimate.freedom <= 0:
        return None
    if estimate.error == 0.0:
        return 1.0 if estimate.mean == 0.0 else 0.0
    return float(2.0 * stdtr(estimate.freedom, -abs(estimate.mean) / estimate.error))


def holm(p_values: Sequence[float | None]) -> tuple[float | None, ...]:
    """Holm-adjusted p values, in the given order; None stays None and is not counted."""
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    worst = 0.0
    for rank, (p, index) in enumerate(order):
        worst = max(worst, min(1.0, p * (len(order) - rank)))
        adjusted[index] = worst
    return tuple(adjusted)


def _log_ratio(a_values: Sequence[float], b_values: Sequence[float], *, paired: bool) -> LogRatio | None:
    a, b = np.asarray(a_values, dtype=np.float64), np.asarray(b_values, dtype=np.float64)
    if not a.size or not b.size or not (np.all(a > 0) and np.all(b > 0)):
        return None
    a, b = np.log(a), np.log(b)
    num = int(min(a.size, b.size))
    mean = float(a.mean() - b.mean())
    if num < 2:
        return LogRatio(mean, 0.0, 0.0, num)
    if paired and a.size == b.size:
        return LogRatio(mean, _standard_error(a - b), num - 1, num)
    return LogRatio(mean, *_welch(a, b), num)


def _welch(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Standard error and Welch-Satterthwaite degrees of freedom of the difference of two means."""
    var_a, var_b = _standard_error(a) ** 2, _standard_error(b) ** 2
    if var_a + var_b == 0.0:
        return 0.0, a.size + b.size - 2.0
    freedom = (var_a + var_b) ** 2 / (var_a**2 / (a.size - 1) + var_b**2 / (b.size - 1))
    return math.sqrt(var_a + var_b), freedom


def _standard_error(data: np.ndarray) -> float:
    return float(data.std(ddof=1) / math.sqrt(data.size))


def quantile(freedom: float) -> float:
    """Student's t that a 95 % interval reaches on either side."""
    return float(stdtrit(freedom, (1.0 + CONFIDENCE) / 2.0))


def _half_width(error: float, freedom: float) -> float:
    return quantile(freedom) * error
