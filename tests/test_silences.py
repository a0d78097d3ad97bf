"""Moments in which no stream gets a chunk."""

from __future__ import annotations

import numpy as np
import pytest

from harness.numbers.columns import columns
from harness.numbers.silences import silences
from harness.schema import RequestRecord


def stream(index: int, times: np.ndarray, sent: float = 0.0) -> RequestRecord:
    return RequestRecord(
        request_id=str(index),
        due_at_s=sent,
        sent_at_s=sent,
        content_at_s=tuple(times.tolist()),
        output_len=times.size,
    )


def served(stops: tuple[float, ...], length_s: float = 0.4, num: int = 8) -> list[RequestRecord]:
    """`num` streams of a chunk every 10 ms for 8 s, all stopped for `length_s` at the given moments."""
    steps = np.arange(0.1, 8.0, 0.01)
    late = steps + length_s * sum((steps > at).astype(float) for at in stops)
    return [stream(i, late + 0.001 * i) for i in range(num)]


def test_stops_are_found_with_their_length_share_and_period() -> None:
    found = silences(columns(served((1.0, 3.0, 5.0, 7.0))))
    assert found is not None and len(found.found) == 4
    assert found.median_s == pytest.approx(0.403, abs=0.005)
    assert found.total_s == pytest.approx(1.61, abs=0.02)
    assert found.share == pytest.approx(found.total_s / 9.6, rel=0.01)
    assert found.period_s == pytest.approx(2.4, rel=0.01)
    assert found.period_tokens == pytest.approx(8 * 200, rel=0.01)


def test_a_steady_trial_has_none_and_two_have_no_period() -> None:
    steady = silences(columns(served(())))
    assert steady is not None and steady.found == () and steady.share == 0.0
    two = silences(columns(served((2.0, 5.0))))
    assert two is not None and len(two.found) == 2 and two.period_s is None


def test_a_stop_through_which_a_request_waits_for_its_first_chunk_is_counted_apart() -> None:
    records = served((3.0,))
    resumed = min(t for t in records[0].content_at_s if t > 3.3)
    newcomer = stream(99, resumed + 0.002 + np.arange(0.0, 1.0, 0.01), sent=3.0)
    found = silences(columns([*records, newcomer]))
    assert found is not None and found.found == ()
    assert found.prefill_share == pytest.approx(0.4 / 8.4, rel=0.1)


def test_the_gap_of_one_user_is_no_silence() -> None:
    assert silences(columns(served((3.0,), num=2))) is None
    assert silences(columns([])) is None
