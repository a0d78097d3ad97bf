"""How far a figure differs between server lives, learned from all cells of a run together. Pure.

Three restarts say little about their own spread (t = 4.3, and 15 after a correction for twelve comparisons).
The cells of a run (scenario x variant against the baseline) are of one host, one model, one hour: their
spreads are different, but not arbitrarily. So ln(standard deviation) of a cell lies around a centre that is
not known, with a width that is not known either (Student's t with 2 degrees of freedom, so that a cell may
stand apart); both are learned from the run's cells, and integrated over instead of estimated: a hierarchical
model on a grid. limma's moderated t (Smyth 2004) is the same idea with the two estimated, which needs
hundreds of cells: with a dozen it says "faster" too often (docs/STATISTICS.md has both, simulated).

A single cell gives Student's t exactly. Cells whose spreads say the same thing twice (one slow server life
slows all its scenarios) count less: see `independence`. A cell whose spread is wider than the others would
have it keeps the wider of the two intervals: see `apart`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, logsumexp, ndtr, stdtr

Floats = NDArray[np.float64]

_LOG_SD = np.arange(np.log(1e-3), np.log(2.0), 0.1)
"""Spreads considered. Below 0.1 % none is believed: two restarts may agree by luck, hosts do not."""
_WIDTHS = np.array([0.15, 0.3, 0.5, 0.75, 1.0, 1.4, 1.9, 2.6])
"""Widths of ln(sd) over the cells considered, with a half-normal prior of _SCALE.

In the kept H200 runs it is about 1: spreads of 0.1 % stand beside spreads of 15 %.
"""
_SCALE = 1.0

_TAILS = 2.0
"""Degrees of freedom of Student's t: how far a cell may stand apart from the others."""

_BELIEF = 1.0
"""Standard errors by which cells must move together more than chance has it before they count as fewer."""
APART = 0.15
"""Chance below which a cell's spread is too wide for the others' to hold for it."""


class Spread(NamedTuple):
    """What is known of one cell's standard deviation: a weight for each that is considered."""

    weights: Floats
    num: int
    """Restarts of the cell."""
    num_cells: int
    """Cells it was learned from."""
    shared: float
    """Of 1: how independent those were. 1/num_cells = all say the same."""
    own: float
    """The cell's own sample standard deviation."""
    apart: bool
    """The others would not have it so wide: its own t-interval holds where that is wider."""

    @property
    def errors(self) -> Floats:
        """Standard error of the cell's mean for each standard deviation considered."""
        errors: Floats = np.exp(_LOG_SD) / np.sqrt(self.num)
        return errors

    @property
    def typical(self) -> float:
        """Median standard deviation."""
        return float(np.exp(_LOG_SD[np.searchsorted(np.cumsum(self.weights), 0.5)]))

    def tail(self, distance: float) -> float:
        """Two-sided p of a mean this far from its expectation."""
        learned = float(min(1.0, 2.0 * (self.weights @ ndtr(-abs(distance) / self.errors))))
        if not self.apart:
            return learned
        return max(learned, float(2.0 * stdtr(self.num - 1, -abs(distance) / (self.own / np.sqrt(self.num)))))

    def reach(self, p: float) -> float:
        """Distance that a mean exceeds with two-sided probability p: the half width of an interval."""
        low, high = 0.0, 1.0
        while self.tail(high) > p:
            high *= 2.0
        for _ in range(60):
            middle = (low + high) / 2.0
            low, high = (middle, high) if self.tail(middle) > p else (low, middle)
        return high


def learn(cells: Sequence[Floats]) -> tuple[Spread, ...]:
    """A Spread for each cell; `cells` hold the (log) values of the restarts, at least two each.

    Raises ValueError for a cell of fewer.
    """
    if not cells:
        return ()
    if min(cell.size for cell in cells) < 2:
        raise ValueError("a spread needs at least two restarts")
    shared = independence(cells)
    likelihood = np.stack([_likelihood(cell) for cell in cells])
    prior = _prior()
    most = likelihood.max(axis=1, keepdims=True)
    marginal = most + np.log(np.maximum(np.exp(likelihood - most) @ prior.T, 1e-300))
    hyper = shared * marginal.sum(axis=0) - np.repeat((_WIDTHS / _SCALE) ** 2 / 2.0, _LOG_SD.size)
    weights = _normal(_mixed(hyper - marginal, prior) + likelihood)
    by_others = _normal(_mixed(hyper - shared * marginal, prior))
    return tuple(
        Spread(
            weights=w,
            num=cell.size,
            num_cells=len(cells),
            shared=shared,
            own=float(cell.std(ddof=1)),
            apart=len(cells) > 1 and apart(cell, others),
        )
        for w, others, cell in zip(weights, by_others, cells, strict=True)
    )


def _error_of_squares(freedom: int, num: int) -> float:
    """Standard error of the mean squared correlation of `num` independent cells."""
    variance = 2.0 * (freedom - 1.0) / (freedom**2 * (freedom + 2.0))
    return float(np.sqrt(variance / (num - 1.0)))


def apart(cell: Floats, others: Floats) -> bool:
    """Whether a sample variance this large has a chance below APART, by what the other cells say of spreads.

    `others` are the weights they give to each spread considered.
    """
    freedom = cell.size - 1
    return bool(others @ chdtrc(freedom, freedom * cell.var(ddof=1) * np.exp(-2.0 * _LOG_SD)) < APART)


def independence(cells: Sequence[Floats]) -> float:
    """Of 1, how much the cells' spreads say independently; 1/num where all say the same.

    The spreads of two cells whose restarts move together (correlation r) are correlated by r^2. Its mean over
    pairs, less what chance gives (1 / degrees of freedom), thins the evidence that cells have together as a
    design effect does: 1 / (1 + (num - 1) r^2). Cells of other lengths than the most common are left out.
    """
    sizes = [cell.size for cell in cells]
    size = max(set(sizes), key=sizes.count)
    moved = [cell - cell.mean() for cell in cells if cell.size == size]
    unit = np.array([m / np.linalg.norm(m) for m in moved if np.linalg.norm(m) > 0.0])
    num, freedom = len(unit), size - 1
    if num < 2 or freedom < 2:
        return 1.0
    squares = (unit @ unit.T) ** 2
    mean = (squares.sum() - num) / (num * (num - 1))
    by_chance = 1.0 / freedom + _BELIEF * _error_of_squares(freedom, num)
    excess = float(np.clip((mean - by_chance) / (1.0 - 1.0 / freedom), 0.0, 1.0))
    return 1.0 / (1.0 + (len(cells) - 1) * excess)


def _mixed(hyper: Floats, prior: Floats) -> Floats:
    """[cell, sd] log weights: each cell's hypotheses [cell, hypothesis] over what they say of an sd."""
    scaled = np.exp(hyper - hyper.max(axis=1, keepdims=True))
    return np.asarray(np.log(np.maximum(scaled @ prior, 1e-300)))


def _normal(log_weights: Floats) -> Floats:
    return np.asarray(np.exp(log_weights - logsumexp(log_weights, axis=1, keepdims=True)))


def _likelihood(cell: Floats) -> Floats:
    """log p(sample variance | sd) up to a constant, for each sd considered."""
    freedom, variance = cell.size - 1, float(cell.var(ddof=1))
    return np.asarray(-freedom * _LOG_SD - freedom * variance / 2.0 * np.exp(-2.0 * _LOG_SD))


@cache
def _prior() -> Floats:
    """[width x centre, sd] probability of an sd, for each hypothesis on the run's cells."""
    distance = (_LOG_SD[None, None, :] - _LOG_SD[None, :, None]) / _WIDTHS[:, None, None]
    table = (-(_TAILS + 1.0) / 2.0 * np.log1p(distance**2 / _TAILS)).reshape(-1, _LOG_SD.size)
    return np.asarray(np.exp(table - logsumexp(table, axis=1, keepdims=True)))
