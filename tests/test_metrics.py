"""Metrics against numbers worked out by hand, and invariants on random records."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import InputError
from harness.numbers.columns import columns
from harness.numbers.metrics import attained, metrics, over_restarts
from harness.schema import RequestRecord

SLOW_START = RequestRecord(
    request_id="a",
    due_at_s=1.0,
    sent_at_s=1.0,
    content_at_s=(1.5, 1.6, 1.7),
    input_len=10,
    output_len=5,
    usage=True,
)
LATE = RequestRecord(
    request_id="b", due_at_s=1.5, sent_at_s=2.0, content_at_s=(2.2, 3.0), prompt_len=20, output_len=2
)
ONE_TOKEN = RequestRecord(
    request_id="c", due_at_s=2.0, sent_at_s=2.0, content_at_s=(2.1,), input_len=1, output_len=1
)
FAILED = RequestRecord(
    request_id="d", sent_at_s=0.0, content_at_s=(9.0,), output_len=99, error_kind="reset", error="gone"
)


def test_hand_worked_numbers() -> None:
    m = metrics([SLOW_START, LATE, ONE_TOKEN, FAILED])
    assert (m.completed, m.failed) == (3, 1)
    assert m.window_s == pytest.approx(2.0)  # 1.0 -> 3.0; the failed request does not widen it
    assert (m.total_input_tokens, m.total_output_tokens) == (31, 8)  # prompt_len where usage is absent
    assert m.output_throughput == pytest.approx(4.0)
    assert m.total_token_throughput == pytest.approx(19.5)
    assert m.request_throughput == pytest.approx(1.5)
    assert m.ttft_s is not None and m.tpot_s is not None and m.icl_s is not None
    assert m.ttft_s.max == pytest.approx(0.5) and m.ttft_s.p50 == pytest.approx(0.2)
    assert m.tpot_s.count == 2 and m.tpot_s.max == pytest.approx(0.8)
    assert m.tpot_s.mean == pytest.approx((0.05 + 0.8) / 2)
    assert m.icl_s.count == 3 and m.icl_s.p50 == pytest.approx(0.1)
    assert m.e2el_s is not None and m.e2el_s.max == pytest.approx(1.0)
    assert m.schedule_delay_s is not None and m.schedule_delay_s.max == pytest.approx(0.5)


def test_a_row_shows_the_median_of_its_restarts_latencies_and_all_their_failures() -> None:
    late_first = RequestRecord(request_id="e", content_at_s=(0.9, 1.0), output_len=2)
    lives = [metrics([SLOW_START]), metrics([late_first, FAILED]), metrics([ONE_TOKEN, LATE])]
    shown = over_restarts(lives, lives[0])
    assert shown is not None and shown.ttft_s is not None and shown.tpot_s is not None
    assert shown.ttft_s.p50 == pytest.approx(0.5)  # of 0.5, 0.9 and 0.15, whichever life is in the middle
    assert shown.ttft_s.count == 4
    assert shown.tpot_s.p50 == pytest.approx(0.1)  # of 0.05, 0.1 and 0.8
    assert (shown.completed, shown.failed) == (4, 1)
    assert shown.output_throughput == lives[0].output_throughput


def test_goodput_counts_requests_that_meet_every_limit() -> None:
    records = [SLOW_START, LATE, ONE_TOKEN, FAILED]
    assert metrics(records).request_goodput is None
    assert metrics(records, {"ttft_s": 0.3}).request_goodput == pytest.approx(0.5)  # LATE waited 0.5 s
    assert metrics(records, {"ttft_s": 0.8}).request_goodput == pytest.approx(1.5)
    assert metrics(records, {"ttft_s": 0.8, "tpot_s": 0.1}).request_goodput == pytest.approx(1.0)
    with pytest.raises(InputError, match="ttft_ms"):
        metrics(records, {"ttft_ms": 300})


def record(ttft: float, error: str = "", late: float = 0.0) -> RequestRecord:
    return RequestRecord(
        request_id="r",
        sent_at_s=late,
        content_at_s=(late + ttft, late + ttft + 1.0),
        output_len=11,
        error=error,
    )


def test_the_share_within_an_slo_counts_failures_and_waiting_as_misses() -> None:
    records = [record(0.1), record(0.3), record(0.1, "broken"), record(0.1, late=0.2)]
    table = columns(records)
    assert attained(table, {"ttft_s": 0.25}) == 0.25
    assert attained(table, {"tpot_s": 0.11}) == 0.75
    assert attained(table, {"e2el_s": 1.2}) == 0.25
    assert attained(columns([]), {}) == 0.0
    with pytest.raises(InputError, match="ttft_s"):
        attained(table, {"ttft_ms": 1})


def test_goodput_and_the_share_within_an_slo_are_one_rule() -> None:
    records = [record(0.1), record(0.1, late=0.2), record(0.1, late=0.1)]
    found = metrics(records, {"ttft_s": 0.25})
    assert found.request_goodput == pytest.approx(
        attained(columns(records), {"ttft_s": 0.25}) * 3 / found.window_s
    )


@pytest.mark.parametrize("records", [[], [FAILED]])
def test_nothing_succeeded(records: list[RequestRecord]) -> None:
    m = metrics(records)
    assert (m.completed, m.failed) == (0, len(records))
    assert m.window_s == m.output_throughput == 0.0
    assert m.ttft_s is m.tpot_s is m.icl_s is None


BY_HAND: dict[str, Callable[[RequestRecord], float]] = {
    "ttft_s": lambda r: r.content_at_s[0] - r.sent_at_s,
    "tpot_s": lambda r: (r.content_at_s[-1] - r.content_at_s[0]) / (r.output_len - 1),
    "e2el_s": lambda r: r.content_at_s[-1] - r.sent_at_s,
}
times = st.lists(st.floats(0.0, 50.0), min_size=1, max_size=8).map(sorted).map(tuple)


@given(st.lists(st.tuples(st.floats(0, 5), times, st.integers(0, 9), st.booleans()), max_size=20))
def test_percentiles_are_numpys(drawn: list[tuple[float, tuple[float, ...], int, bool]]) -> None:
    records = [
        RequestRecord(
            request_id=str(i),
            sent_at_s=sent,
            content_at_s=tuple(sent + t for t in content),
            output_len=num,
            error="x" if failed else "",
        )
        for i, (sent, content, num, failed) in enumerate(drawn)
    ]
    m = metrics(records)
    for name, by_hand in BY_HAND.items():
        values = [by_hand(r) for r in records if not r.error and (name != "tpot_s" or r.output_len > 1)]
        got = getattr(m, name)
        if not values:
            assert got is None
            continue
        assert got.count == len(values)
        assert got.p99 == pytest.approx(float(np.percentile(values, 99)))
        assert got.p50 <= got.p90 <= got.p95 <= got.p99 <= got.max
