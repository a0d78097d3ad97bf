"""Intervals against textbook values, and the verdict in words."""

from __future__ import annotations

import numpy as np
import pytest

from harness.numbers.intervals import contrasts, holm, interval, p_value, ratio, words
from harness.schema import Contrast, Interval


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


def test_words() -> None:
    contrast = Contrast(
        scenario="s", baseline="B", variant="A", ratio=Interval(mean=1.18, low=1.12, high=1.25, num=3)
    )
    assert words(contrast) == "A is 1.18x B (1.12-1.25)"
    assert words(Contrast(scenario="s", baseline="B", variant="A")).startswith("A and B: no ratio")


def test_contrasts_pair_by_restart_and_correct_together() -> None:
    samples = {
        ("s", "B"): {1: 100.0, 2: 130.0, 3: 90.0},
        ("s", "A"): {1: 120.0, 2: 155.0, 3: 109.0},
        ("s", "C"): {1: 103.0, 2: 128.0, 3: 93.0},
        ("t", "B"): {1: 50.0},
        ("t", "A"): {1: 60.0},
        ("u", "A"): {1: 60.0},
    }
    got = {(c.scenario, c.variant): c.words for c in contrasts(samples, "B")}
    assert got[("s", "A")].startswith("A is 1.20x B (1.1")
    assert got[("s", "C")].startswith("C and B are too close to call (")
    assert got[("t", "A")] == "A was seen at 1.20x B: one run, no interval"
    assert ("u", "A") not in got


def test_borderline_contrast_falls_to_the_correction() -> None:
    rng = np.random.default_rng(1)
    base = {r: 100.0 for r in range(1, 5)}
    edge = {1: 101.0, 2: 103.5, 3: 105.5, 4: 103.0}
    alone = contrasts({("s", "B"): base, ("s", "A"): edge}, "B")[0]
    assert alone.words.startswith("A is 1.03x B")
    crowd = {("s", f"V{i}"): {r: 100 * np.exp(rng.normal(0, 0.03)) for r in base} for i in range(12)}
    among = contrasts({("s", "B"): base, ("s", "A"): edge, **crowd}, "B")[0]
    assert "not after correcting for 13 comparisons" in among.words
