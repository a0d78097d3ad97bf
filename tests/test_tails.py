"""Certified percentiles: how many requests, what bound, and what clusters cost."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from harness.numbers.tails import bound, design_effect, differ, required, tail, within


@pytest.mark.parametrize(("share", "num"), [(0.9, 64), (0.95, 130), (0.99, 662), (0.5, 11)])
def test_requests_needed_are_mlperfs(share: float, num: int) -> None:
    """Table of mlcommons/endpoints docs/early_stopping.md, 99 % confidence; p50 by the same rule."""
    assert required(share) == num


def test_at_the_least_number_the_slowest_request_is_not_believed() -> None:
    values = np.arange(662.0)
    found = bound(values, 0.99)
    assert found is not None and 659.0 <= found <= 660.1
    assert bound(np.arange(50.0), 0.99) is None


def test_the_bound_holds_the_truth_99_times_in_100() -> None:
    rng = np.random.default_rng(0)
    truth = -np.log(0.1)
    bounds = [bound(values, 0.9) for values in rng.exponential(size=(3000, 100))]
    held = np.mean([b is not None and b >= truth for b in bounds])
    assert 0.985 <= held <= 0.995


def test_too_few_requests_show_the_highest_certified_percentile_and_what_is_missing() -> None:
    rng = np.random.default_rng(1)
    found = tail("ttft", [rng.exponential(size=50) for _ in range(3)], 0.99)
    assert found is not None and found.pooled
    assert (found.share, found.num, found.needed) == (0.95, 150, 662 - 150)
    assert found.value is not None and found.bound is not None and found.bound > found.value
    few = tail("ttft", [np.array([1.0, np.nan, 2.0])], 0.99)
    assert few is not None and few.share == 0.0 and few.value is None and few.bound is None
    assert tail("ttft", [np.array([np.nan])], 0.99) is None


def test_batches_that_are_slow_together_count_as_fewer() -> None:
    rng = np.random.default_rng(2)
    alone = [rng.exponential(size=512) for _ in range(3)]
    batches = [np.repeat(rng.exponential(size=32), 16) + rng.normal(0, 1e-3, 512) for _ in range(3)]
    assert design_effect(alone) == 1.0
    assert 6.0 < design_effect(batches) < 30.0


def test_server_lives_that_differ_are_not_pooled_and_the_slowest_bounds() -> None:
    rng = np.random.default_rng(3)
    lives = [rng.exponential(size=300) * slow for slow in (1.0, 1.0, 3.0)]
    assert differ(lives) and not differ([rng.exponential(size=300) for _ in range(3)])
    found = tail("ttft", lives, 0.9)
    assert found is not None and not found.pooled and found.share == 0.9
    assert found.bound == bound(lives[2], 0.9)


def test_a_limit_holds_when_mlperfs_rule_would_let_it_pass() -> None:
    """One query beyond its limit needs 662 as the table above has it, two need 838 by the same binomial."""

    def met(num: int, missed: int) -> NDArray[np.bool_]:
        values = np.ones(num, dtype=np.bool_)
        values[:: max(num // missed, 1) if missed else num + 1][:missed] = False
        return values

    for num, missed in ((662, 0), (662, 1), (838, 2), (5000, 25)):
        found = within([met(num, missed)], 0.99)
        assert found is not None and found.certified
    for num, missed in ((661, 0), (661, 1), (837, 2), (5000, 40)):
        found = within([met(num, missed)], 0.99)
        assert found is not None and not found.certified
        assert (found.num, round(found.share * num)) == (num, num - missed)
    assert within([], 0.99) is None


def test_a_restart_that_misses_its_limits_is_not_outvoted() -> None:
    good, bad = np.ones(4000, dtype=np.bool_), np.ones(1000, dtype=np.bool_)
    bad[::20] = False
    found = within([good, bad], 0.98)
    assert found is not None and found.share == 0.99 and not found.certified
    alone = within([good], 0.98)
    assert alone is not None and alone.certified
