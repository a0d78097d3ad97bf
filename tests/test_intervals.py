"""Intervals against textbook values."""

from __future__ import annotations

import numpy as np
import pytest

from harness.numbers.intervals import holm, interval, p_value, ratio
from harness.schema import Interval


def test_interval_is_students() -> None:
    got = interval([10.0, 12.0, 14.0])
    half = 4.302652729911275 * 2.0 / np.sqrt(3)  # t(0.975, 2 degrees of freedom)
    assert got.num == 3 and got.mean == pytest.approx(12.0)
    assert (got.low, got.high) == pytest.approx((12.0 - half, 12.0 + half))


def test_one_value_has_no_width() -> None:
    assert interval([7.0]) == Interval(mean=7.0, low=7.0, high=7.0, num=1)
    with pytest.raises(ValueError):
        interval([])


def test_a_rate_is_not_below_zero() -> None:
    assert interval([600.0, 1500.0]).low == 0.0
    assert interval([-1.0, 1.0]).low < -1.0


def test_pairing_removes_what_both_sides_share() -> None:
    host = np.array([1.0, 1.3, 0.8, 1.1])
    a, b = list(120 * host * [1.0, 1.01, 0.99, 1.0]), list(100 * host)
    paired, unpaired = ratio(a, b), ratio(a, b, paired=False)
    assert paired is not None and unpaired is not None
    assert paired.mean == pytest.approx(unpaired.mean) == pytest.approx(1.2, rel=0.01)
    assert paired.low > 1.17 and unpaired.low < 1.0


def test_ratio_needs_positive_values() -> None:
    assert ratio([0.0, 1.0], [1.0, 1.0]) is None
    assert ratio([], [1.0]) is None
    assert p_value([1.0], [2.0]) is None


def test_welch_matches_a_worked_example() -> None:
    a = np.exp([27.5, 21.0, 19.0, 23.6, 17.0, 17.9])
    b = np.exp([27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0, 24.8, 20.2, 21.9, 22.1, 22.9, 20.5, 24.4])
    # Welch's t-test of the same two samples, computed independently from its definition: t = -1.3729...
    na, nb = np.log(a), np.log(b)
    va, vb = na.var(ddof=1) / na.size, nb.var(ddof=1) / nb.size
    t = (na.mean() - nb.mean()) / np.sqrt(va + vb)
    from scipy.stats import ttest_ind

    expected = ttest_ind(na, nb, equal_var=False)
    assert t == pytest.approx(expected.statistic)
    assert p_value(list(a), list(b)) == pytest.approx(expected.pvalue)


def test_coverage_is_what_it_says() -> None:
    """Of 2000 simulated comparisons with 4 restarts of 3 % noise, about 95 % of intervals hold the truth."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        a, b = 118 * np.exp(rng.normal(0, 0.03, 4)), 100 * np.exp(rng.normal(0, 0.03, 4))
        got = ratio(list(a), list(b))
        assert got is not None
        held += got.low <= 1.18 <= got.high
    assert 0.935 <= held / 2000 <= 0.965


def test_holm() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx((0.03, None, 0.06, 0.06))
    assert holm([0.9, 0.8]) == (1.0, 1.0)
