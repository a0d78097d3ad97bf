"""Percentiles with a bound, from as many requests as the bound needs. Pure.

The rule is MLPerf's (LoadGen, early stopping): a percentile is certified when at most one request in a
hundred such measurements would lie beyond the bound by chance, and the slowest request need not be believed:
64 requests for p90, 130 for p95, 662 for p99. The bound is an order statistic of binomial rank (Clopper-
Pearson), interpolated between neighbours (Hutson 1999) because whole ranks jump from 98.9 to 99.8 %.

Requests of one batch or one stall are slow together and say less than as many alone: where the share beyond
the 90th percentile varies between stretches of requests by more than chance, their number is divided by that
excess (the design effect of cluster samples, Kish 1965). Server lives that differ by more than chance are
not pooled: each certifies by itself, and the bound is that of the slowest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, betainc, chdtrc, chdtri

from harness.schema import Tail, Within

Floats = NDArray[np.float64]

CONFIDENCE = 0.99
LEVELS = (0.5, 0.9, 0.95, 0.99)
"""Percentiles that may be certified."""
_MARK = 0.9
"""Clusters show in how often this percentile is exceeded: often enough to count."""
_STRETCHES = (8, 32, 128)
"""Requests in a row that are looked at together."""
_MIN_STRETCHES = 10
_UPPER = 0.84
"""Chance that the excess lies below what it is taken for."""
_CHANCE = 0.01
"""p below which clusters are believed."""


def tail(metric: str, restarts: Sequence[Floats], asked: float) -> Tail | None:
    """What may be said of a latency; None without any value.

    `restarts` hold its values in the order of sending, seconds, NaN = undefined.
    """
    known = [np.asarray(values[np.isfinite(values)], dtype=np.float64) for values in restarts]
    known = [values for values in known if values.size]
    if not known:
        return None
    effect, pooled = design_effect(known), np.concatenate(known)
    apart = differ(known)
    groups = known if apart else [pooled]
    effective = [group.size / effect for group in groups]
    levels = [level for level in {*LEVELS, asked} if level <= asked and min(effective) >= required(level)]
    share = max(levels, default=0.0)
    bounds = [bound(g, share, e) for g, e in zip(groups, effective, strict=True)] if share else []
    lacking = [max(0.0, required(asked) - e) for e in effective]
    return Tail(
        metric=metric,
        asked=asked,
        share=share,
        value=float(np.median([np.quantile(group, share) for group in groups])) if share else None,
        bound=max((b for b in bounds if b is not None), default=None),
        num=int(pooled.size),
        num_effective=sum(effective),
        pooled=not apart,
        needed=math.ceil(sum(lacking) * effect),
    )


def within(restarts: Sequence[NDArray[np.bool_]], asked: float) -> Within | None:
    """Whether `asked` of the requests meet all limits at once; None without any request.

    `restarts`: in the order of sending, whether each request met them. MLPerf's rule, jointly for all limits:
    the queries beyond them, at least one, would be so few by chance once in a hundred measurements.
    """
    missed = [np.asarray(~met, dtype=np.float64) for met in restarts if met.size]
    if not missed:
        return None
    effect, pooled = design_effect(missed), np.concatenate(missed)
    groups = missed if differ(missed) else [pooled]
    return Within(
        asked=asked,
        share=1.0 - float(pooled.mean()),
        num=int(pooled.size),
        certified=all(_shown(group.size / effect, float(group.sum()) / effect, asked) for group in groups),
    )


def _shown(num: float, missed: float, asked: float) -> bool:
    """Whether so few of so many would miss once in a hundred times, if just `asked` of all were to meet."""
    beyond = max(missed, 1.0)
    return num > beyond and float(betainc(num - beyond, beyond + 1.0, asked)) <= 1.0 - CONFIDENCE


@cache
def required(share: float) -> int:
    """Fewest independent requests that certify this percentile (0 < share < 1), one of them disbelieved."""
    low, high = 1, 2
    while bdtr(1, high, 1.0 - share) > 1.0 - CONFIDENCE:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bdtr(1, middle, 1.0 - share) > 1.0 - CONFIDENCE else (low, middle)
    return high


def bound(values: Floats, share: float, effective: float | None = None) -> float | None:
    """Upper 99 % confidence bound of the percentile; None where there are too few values.

    `effective` is how many independent values these are worth; all of them by default.
    """
    num = effective or float(values.size)
    rank = _rank(num, share)
    if rank is None:
        return None
    ordered = np.sort(values)
    position = min(max(rank / (num + 1.0) * (values.size + 1.0) - 1.0, 0.0), values.size - 1.0)
    below = math.floor(position)
    above = min(below + 1, values.size - 1)
    return float(ordered[below] + (position - below) * (ordered[above] - ordered[below]))


def design_effect(restarts: Sequence[Floats]) -> float:
    """How many requests count as one, at least 1: excess variance of stretches within restarts."""
    found = [1.0]
    for length in _STRETCHES:
        squares, freedom = 0.0, 0
        for values in restarts:
            beyond = values > np.quantile(values, _MARK)
            chance, num = float(beyond.mean()), values.size // length
            if num > 1 and 0.0 < chance < 1.0:
                shares = beyond[: num * length].reshape(num, length).mean(axis=1)
                squares += _squares(shares, length, chance)
                freedom += num - 1
        if freedom >= _MIN_STRETCHES and chdtrc(freedom, squares) < _CHANCE:
            # Few stretches know the excess badly: its upper bound, as far as one standard error goes.
            found.append(squares / float(chdtri(freedom, _UPPER)))
    return max(found)


def differ(restarts: Sequence[Floats]) -> bool:
    """Whether server lives are slow to different degrees, by more than chance: they are then not pooled."""
    pooled = np.concatenate(restarts)
    beyond = [values > np.quantile(pooled, _MARK) for values in restarts]
    chance = float(np.concatenate(beyond).mean())
    if len(restarts) < 2 or not 0.0 < chance < 1.0:
        return False
    effect = design_effect(restarts)
    squares = sum(_squares(np.array([b.mean()]), b.size / effect, chance) for b in beyond)
    return bool(chdtrc(len(restarts) - 1, squares) < _CHANCE)


def _squares(shares: Floats, num: float, chance: float) -> float:
    """Chi squared of shares, each of `num` requests, around what chance gives."""
    return float(num * ((shares - chance) ** 2).sum() / (chance * (1.0 - chance)))


@cache
def _rank(num: float, share: float) -> float | None:
    """Real rank k of `num` ordered values below which the percentile lies with CONFIDENCE."""
    low, high = num * share, num - 1e-9
    if betainc(high, num + 1.0 - high, share) > 1.0 - CONFIDENCE:
        return None
    for _ in range(60):
        middle = (low + high) / 2.0
        beyond = betainc(middle, num + 1.0 - middle, share) > 1.0 - CONFIDENCE
        low, high = (middle, high) if beyond else (low, middle)
    return high
