"""The same question asked on several hosts: ratios combined with the spread between hosts. Pure.

Restarts on one host are not hosts: the GPU-bound engine of one machine is the host-bound one of the next. So
each host is one sample: the t-interval of the mean over hosts of the log ratio, whose standard error is not
believed to be smaller than what the restarts within the hosts leave (random effects, with that floor).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import msgspec
import numpy as np
from scipy.special import stdtr

from harness.numbers import intervals
from harness.numbers.verdicts import words
from harness.schema import Comparison, Contrast, Interval

_NORMAL = 1.959964
"""Half width of a 95 % interval in standard errors, where restarts are many."""
Question = tuple[str, str, str, str]
"""Scenario, baseline, variant, metric."""


def combined(comparisons: Sequence[Comparison]) -> tuple[Contrast, ...]:
    """A contrast for each that at least two hosts have an interval for; primary ones Holm-corrected together.

    Several runs of one host count as one sample, their mean.
    """
    asked: dict[Question, dict[str, list[Contrast]]] = defaultdict(lambda: defaultdict(list))
    for comparison in comparisons:
        for contrast in comparison.contrasts:
            if comparison.host and contrast.ratio and contrast.ratio.num > 1:
                question = (contrast.scenario, contrast.baseline, contrast.variant, contrast.metric)
                asked[question][comparison.host].append(contrast)
    found = [_over([list(host) for host in hosts.values()]) for hosts in asked.values() if len(hosts) > 1]
    family = [c.p_value if c.primary else None for c in found]
    num = sum(p is not None for p in family)
    corrected = zip(found, intervals.holm(family), strict=True)
    whole = [msgspec.structs.replace(c, p_value=p if c.primary else c.p_value) for c, p in corrected]
    return tuple(msgspec.structs.replace(c, words=words(c, num)) for c in whole)


def _over(hosts: Sequence[Sequence[Contrast]]) -> Contrast:
    """One contrast over the hosts; each host's are of the same question."""
    means = np.array([np.mean([math.log(_ratio(c).mean) for c in host]) for host in hosts])
    within = np.array([np.mean([_error(_ratio(c)) ** 2 for c in host]) / len(host) for host in hosts])
    num = means.size
    variance = max(float(means.var(ddof=1)) / num, float(within.sum()) / num**2)
    error, mean = math.sqrt(variance), float(means.mean())
    half = intervals.quantile(num - 1) * error
    low, middle, high = (math.exp(x) for x in (mean - half, mean, mean + half))
    return msgspec.structs.replace(
        hosts[0][0],
        ratio=Interval(mean=middle, low=low, high=high, num=num),
        p_value=float(2.0 * stdtr(num - 1, -abs(mean) / error)) if error > 0.0 else float(mean == 0.0),
        detectable=None,
        spread=float(means.std(ddof=1)),
        num_cells=1,
        num_hosts=num,
    )


def _ratio(contrast: Contrast) -> Interval:
    assert contrast.ratio is not None  # only those with a ratio are combined
    return contrast.ratio


def _error(ratio: Interval) -> float:
    """Standard error of the log ratio that its interval amounts to; a little large where restarts are few."""
    if ratio.low <= 0.0:
        return 0.0
    return (math.log(ratio.high) - math.log(ratio.low)) / 2.0 / _NORMAL
