"""Arrival shapes: exact where they are even, right on average where they are random, same for one seed."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.client.pacing import due_times
from harness.errors import InputError
from harness.schema import Load

NUM = 20_000


def gaps(load: Load, num: int = NUM, seed: int = 3) -> list[float]:
    times = due_times(load, num, seed)
    return [b - a for a, b in itertools.pairwise(times)]


def test_closed_loop_is_due_at_once() -> None:
    assert due_times(Load(max_concurrency=8), 3, 0) == (0.0, 0.0, 0.0)


def test_constant_does_not_accumulate_error() -> None:
    times = due_times(Load(request_rate=20, arrival="constant"), NUM, 0)
    assert times[0] == 0 and times[-1] == (NUM - 1) / 20


@pytest.mark.parametrize(("burstiness", "variation"), [(1.0, 1.0), (0.25, 2.0), (4.0, 0.5)])
def test_gamma_gaps_have_the_rate_and_the_variation_asked_for(burstiness: float, variation: float) -> None:
    found = gaps(Load(request_rate=50, arrival="gamma", burstiness=burstiness))
    mean = sum(found) / len(found)
    spread = math.sqrt(sum((g - mean) ** 2 for g in found) / len(found)) / mean
    assert mean == pytest.approx(1 / 50, rel=0.05) and spread == pytest.approx(variation, rel=0.05)


def test_a_rate_alone_means_poisson() -> None:
    assert due_times(Load(request_rate=5), 100, 1) == due_times(
        Load(request_rate=5, arrival="poisson"), 100, 1
    )


def test_poisson_counts_have_variance_equal_to_mean() -> None:
    times = due_times(Load(request_rate=100, arrival="poisson"), NUM, 5)
    counts = [0] * int(times[-1])
    for t in times:
        if t < len(counts):
            counts[int(t)] += 1
    mean = sum(counts) / len(counts)
    variance = sum((c - mean) ** 2 for c in counts) / len(counts)
    assert variance / mean == pytest.approx(1.0, abs=0.3)


def test_ramp_reaches_its_rates() -> None:
    found = gaps(Load(request_rate=10, ramp_to=100, arrival="ramp", burstiness=1e9))
    assert 1 / found[0] == pytest.approx(10, rel=0.02) and 1 / found[-1] == pytest.approx(100, rel=0.02)


def test_ramp_down_and_flat() -> None:
    down = gaps(Load(request_rate=100, ramp_to=10, arrival="ramp", burstiness=1e9))
    assert 1 / down[-1] == pytest.approx(10, rel=0.02)
    flat = due_times(Load(request_rate=10, ramp_to=10, arrival="ramp"), 50, 2)
    assert flat == pytest.approx(due_times(Load(request_rate=10), 50, 2))


def test_stages_hold_their_rates_and_the_last_goes_on() -> None:
    load = Load(arrival="stages", stages=((10.0, 20.0), (5.0, 0.0), (10.0, 5.0)), burstiness=1e9)
    times = due_times(load, 300, 0)
    assert sum(t < 10 for t in times) == pytest.approx(200, abs=1)
    assert not [t for t in times if 10.1 < t < 14.9]
    assert sum(15 <= t < 25 for t in times) == pytest.approx(50, abs=2) and times[-1] > 30


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 300), st.floats(0.1, 1000), st.floats(0.05, 20))
def test_times_never_decrease_and_follow_the_seed(
    seed: int, num: int, rate: float, burstiness: float
) -> None:
    load = Load(request_rate=rate, burstiness=burstiness, arrival="gamma")
    times = due_times(load, num, seed)
    assert len(times) == num and times[0] == 0 and list(times) == sorted(times)
    assert times == due_times(load, num, seed)


def test_seeds_differ() -> None:
    assert due_times(Load(request_rate=1), 5, 0) != due_times(Load(request_rate=1), 5, 1)


BAD = [
    (Load(arrival="poisson"), "rate="),
    (Load(arrival="constant", request_rate=0), "rate="),
    (Load(arrival="ramp", request_rate=1), "ramp_to="),
    (Load(arrival="stages"), "pairs"),
    (Load(arrival="stages", stages=((1, 5), (1, 0))), "last rate"),
    (Load(arrival="gamma", request_rate=1, burstiness=0), "burstiness"),
    (Load(arrival="trace"), "workload"),
]


@pytest.mark.parametrize(("load", "words"), BAD)
def test_bad_shapes_say_what_to_give(load: Load, words: str) -> None:
    with pytest.raises(InputError, match=words):
        due_times(load, 10, 0)
