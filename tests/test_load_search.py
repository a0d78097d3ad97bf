"""Goodput search: few trials, the right interval, reasons at the edges."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import InputError
from harness.numbers.load_search import SearchPlan, search


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
