"""The plateau of a trial, and saturation in open loop."""

from __future__ import annotations

import numpy as np
import pytest

from harness.numbers.columns import columns
from harness.numbers.metrics import metrics
from harness.numbers.steady import held_back, saturation, steady
from harness.schema import Load, RequestRecord


def request(index: int, sent: float, duration: float = 1.0, due: float | None = None) -> RequestRecord:
    times = tuple((sent + np.linspace(0.1 * duration, duration, 10)).tolist())
    return RequestRecord(
        request_id=str(index),
        due_at_s=sent if due is None else due,
        sent_at_s=sent,
        content_at_s=times,
        output_len=10,
    )


def closed(concurrency: int, turns: int) -> list[RequestRecord]:
    """`concurrency` users one after the other, each starting a tenth of a second later than the last."""
    return [
        request(user * turns + turn, 0.1 * user + turn * 1.0)
        for user in range(concurrency)
        for turn in range(turns)
    ]


def test_ramps_do_not_dilute_the_plateau() -> None:
    records = closed(8, 5)
    found = steady(columns(records))
    assert found is not None
    assert found.start_s == pytest.approx(0.7) and found.end_s == pytest.approx(5.0)
    assert found.output_throughput == pytest.approx(80.0, rel=0.12)
    m = metrics(records)
    assert m.steady_output_throughput is not None and m.steady_window_s == pytest.approx(4.3)
    assert m.output_throughput < m.steady_output_throughput


@pytest.mark.parametrize("records", [[], closed(8, 2), [request(0, 0.0)]])
def test_short_trials_have_none(records: list[RequestRecord]) -> None:
    assert steady(columns(records)) is None


def test_saturation_is_open_loop_and_behind() -> None:
    open_loop = Load(request_rate=10.0, arrival="constant")
    keeps_up = [request(i, i * 0.1) for i in range(50)]
    behind = [request(i, i * 0.1, duration=1.0 + 0.2 * i) for i in range(50)]
    assert saturation(columns(keeps_up), open_loop) == ""
    assert "10 requests/s offered, 3.33 served" in saturation(columns(behind), open_loop)
    assert saturation(columns(behind), Load(max_concurrency=8)) == ""
    assert saturation(columns(behind[:10]), open_loop) == ""
    assert saturation(columns([]), open_loop) == ""


def test_answers_that_arrive_whole_are_noted() -> None:
    def whole(index: int) -> RequestRecord:
        return RequestRecord(
            request_id=str(index), sent_at_s=index, content_at_s=(index + 0.1,) * 20, output_len=20
        )

    streamed = [request(i, float(i)) for i in range(20)]
    assert held_back(columns(streamed)) == "" == held_back(columns([]))
    assert held_back(columns([*streamed, whole(20)])) == ""
    found = held_back(columns([*streamed, *(whole(20 + i) for i in range(10))]))
    assert found.startswith("10 of 30 answers arrived whole")
