"""Goodput search: few trials, the right interval, reasons at the edges."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.client.load_search import SearchPlan, attained, search
from harness.errors import InputError
from harness.schema import RequestRecord


@settings(deadline=None)
@given(st.floats(0.5, 2000), st.floats(0.5, 500))
def test_the_interval_holds_the_truth(limit: float, start: float) -> None:
    plan = SearchPlan(start_rate=start, precision=0.1, max_trials=40)
    result = search(lambda rate: 1.0 if rate <= limit else 0.5, plan)
    assert result.high is not None and result.low <= limit < result.high <= 1.1 * result.low
    assert result.rate == result.low and len(result.probes) <= 20


def test_edges_are_said() -> None:
    never = search(lambda rate: 0.0, SearchPlan(start_rate=1, min_rate=0.2))
    assert never.rate == 0 and "does not meet" in never.reason
    always = search(lambda rate: 1.0, SearchPlan(start_rate=1, max_rate=4))
    assert (always.rate, always.high) == (4, None) and "meets" in always.reason
    short = search(lambda rate: float(rate < 7), SearchPlan(start_rate=1, max_trials=3))
    assert short.rate == 4 and "used up" in short.reason
    with pytest.raises(InputError, match="start rate"):
        search(lambda rate: 1.0, SearchPlan(start_rate=0))


def record(ttft: float, error: str = "", late: float = 0.0) -> RequestRecord:
    return RequestRecord(
        request_id="r",
        sent_at_s=late,
        content_at_s=(late + ttft, late + ttft + 1.0),
        output_len=11,
        error=error,
    )


def test_attained_counts_failures_and_waiting_as_misses() -> None:
    records = [record(0.1), record(0.3), record(0.1, "broken"), record(0.1, late=0.2)]
    assert attained(records, {"ttft_s": 0.25}) == 0.25
    assert attained(records, {"tpot_s": 0.11}) == 0.75
    assert attained(records, {"e2el_s": 1.2}) == 0.25
    assert attained([], {}) == 0.0
    with pytest.raises(InputError, match="ttft_s"):
        attained(records, {"ttft_ms": 1})
