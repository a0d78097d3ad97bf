"""A small dose of benchmarks/fuzz_sse.py on every test run; the million is run by hand."""

from __future__ import annotations

from benchmarks.fuzz_sse import run


def test_mutated_streams_neither_crash_nor_hang_and_both_ways_agree() -> None:
    found = run(2000, seed=1)
    assert found["streams"] == 2000 and {"ok", "protocol", "truncated", "engine"} <= set(found)
