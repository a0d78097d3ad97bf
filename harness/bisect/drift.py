"""Differences between versions, free of what a whole round had in common. Pure.

A sample is x[version, round] = mean[version] + drift[round] + noise: the host is faster in one round than in
another, and only versions of the same round met the same host. Least squares over all samples; a contrast's
interval is Student's t with the residual's degrees of freedom (any text on two-way layouts, e.g. Montgomery,
Design and Analysis of Experiments, randomised incomplete blocks).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit


class Point(NamedTuple):
    """One measured version of one round."""

    version: int
    round: int
    value: float


class Difference(NamedTuple):
    """An estimated contrast and half the width of its interval, in the samples' unit."""

    mean: float
    half: float

    @property
    def side(self) -> int:
        """1 above zero, -1 below, 0 where the interval holds zero."""
        return 0 if abs(self.mean) <= self.half else int(math.copysign(1, self.mean))


class Fit:
    """Means of versions with their covariance. Points that met no other in their round say nothing."""

    def __init__(self, points: Sequence[Point]) -> None:
        per_round = Counter(p.round for p in points)
        kept = [p for p in points if per_round[p.round] > 1]
        self.versions = sorted({p.version for p in kept})
        rounds = sorted({p.round for p in kept})
        columns = len(self.versions) + max(0, len(rounds) - 1)
        design, values = np.zeros((len(kept), columns)), np.array([p.value for p in kept])
        for row, point in enumerate(kept):
            design[row, self.versions.index(point.version)] = 1.0
            if number := rounds.index(point.round):
                design[row, len(self.versions) + number - 1] = 1.0
        self.freedom = len(kept) - columns
        self._inverse = np.linalg.pinv(design.T @ design)
        self._means = self._inverse @ design.T @ values
        residual = values - design @ self._means
        self.variance = float(residual @ residual) / self.freedom if self.freedom > 0 else math.inf

    def contrast(self, weights: Mapping[int, float], alpha: float) -> Difference:
        """Sum of weight x mean with its (1 - alpha) interval; as wide as can be where it is not known.

        Weights sum to zero.
        """
        if self.freedom < 1 or not set(weights) <= set(self.versions):
            return Difference(0.0, math.inf)
        vector = np.zeros(len(self._means))
        for version, weight in weights.items():
            vector[self.versions.index(version)] = weight
        error = math.sqrt(self.variance * float(vector @ self._inverse @ vector))
        return Difference(
            float(vector @ self._means), float(stdtrit(self.freedom, 1.0 - alpha / 2.0)) * error
        )
