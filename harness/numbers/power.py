"""What a run will be able to see, before it starts. Pure."""

from __future__ import annotations

import math

import numpy as np

from harness.numbers import intervals, spread
from harness.numbers.verdicts import ALPHA, POWER

TYPICAL_SPREAD = 0.02
"""Between restarts, of log throughput: the median of the kept H200 runs (1.8 %), rounded up."""
_DRAWS = 20


def detectable(restarts: int, cells: int, family: int, sd: float) -> float | None:
    """Smallest ratio above 1 that `restarts` would decide four times in five; None for fewer than two.

    `cells` ratios are in one figure, `family` are corrected together; `sd` is the spread of one side between
    restarts (standard deviation of its log). The median over simulated runs.
    """
    if restarts < 2 or cells < 1:
        return None
    rng = np.random.default_rng(0)
    found = []
    for _ in range(_DRAWS):
        drawn = rng.normal(0.0, sd * math.sqrt(2.0), (cells, restarts))
        first = spread.learn(list(drawn))[0]
        found.append(first.reach(ALPHA / max(1, family)) + first.reach(2.0 * (1.0 - POWER)))
    return math.exp(float(np.median(found)))


def spread_of(rate_low: float, rate_mean: float, rate_high: float, num: int) -> float | None:
    """Standard deviation behind a t-interval over `num` restarts, relative to its mean; None without one."""
    if num < 2 or rate_mean <= 0.0:
        return None
    half = (rate_high - rate_low) / 2.0
    return half / intervals.quantile(num - 1) * math.sqrt(num) / rate_mean
