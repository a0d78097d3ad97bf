"""repeats=auto: whether more restarts would still sharpen the answer. Pure.

It looks at how wide the intervals are, never at which side wins: stopping as soon as a difference shows
would find differences that are not there.
"""

from __future__ import annotations

from harness.schema import Comparison, Interval

PRECISION = 0.03
"""Half width of an interval, relative to its mean, that is tight enough."""
MIN_RESTARTS = 3
MAX_RESTARTS = 10


def enough(comparison: Comparison, restarts: int, spent_s: float, budget_s: float) -> str:
    """Why the run may stop after `restarts` full rounds; "" while another round is worth its time.

    A round is assumed to take as long as the mean of those so far.
    """
    if restarts >= MAX_RESTARTS:
        return f"{MAX_RESTARTS} restarts are the most that are made"
    if budget_s and spent_s * (restarts + 1) / restarts > budget_s:
        return f"another round would exceed the budget of {budget_s:.0f} s"
    if restarts < MIN_RESTARTS:
        return ""
    ratios = [c.ratio for c in comparison.contrasts if c.ratio and c.primary]
    rates = [row.output_throughput for row in comparison.rows if row.output_throughput]
    if all(tight(i) for i in ratios or rates):
        return f"after {restarts} restarts every interval is within {PRECISION:.0%} of its value"
    return ""


def tight(interval: Interval) -> bool:
    """Half width within PRECISION of the mean."""
    return interval.num >= 2 and interval.high - interval.low <= 2 * PRECISION * interval.mean
