"""Why numbers must not be published, and that judging a trial needs no more memory for more records."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from harness import store
from harness.client import ClientStats
from harness.numbers.validity import Seen
from harness.schema import Load, Request, RequestRecord, Trial, TrialResult, WorkloadSpec

STATS = ClientStats(started_at="", duration_s=10.0, cpu_s=0.1, num_in_flight_max=2, num_connections=2)
OUTCOME = TrialResult(
    trial=Trial(variant="v", workload=WorkloadSpec(name="text_tokens"), load=Load(max_concurrency=2)),
    status="done",
)
GOOD = RequestRecord(
    request_id="r0", prompt_len=8, input_len=8, output_len=9, usage=True, output_token_ids=tuple(range(9))
)


def reasons(records: list[RequestRecord], **counters: float) -> list[str]:
    seen = Seen(
        [Request(request_id="r0", max_tokens=9), Request(request_id="eos", max_tokens=9, ignore_eos=False)]
    )
    for record in records:
        seen.add(record)
    return seen.reasons(msgspec.structs.replace(OUTCOME, counters=counters), STATS)


@pytest.mark.parametrize(
    ("change", "counters", "reason"),
    [
        ({}, {}, ""),
        ({"cached_len": 4}, {}, "8 prompt tokens came from the prefix cache"),
        ({}, {"prefix_cache_hits": 5.0}, "5 prompt tokens came from the prefix cache"),
        ({"input_len": 9}, {}, "2 prompts were read as another length (first: 8 tokens sent, 9 read)"),
        ({}, {"generation_tokens": 40.0}, "output tokens disagree"),
        (
            {"output_len": 5, "output_token_ids": tuple(range(5))},
            {},
            "2 outputs ended before max_tokens although ignore_eos was asked for: 44.4% of the tokens",
        ),
        ({"output_len": 5, "output_token_ids": tuple(range(5)), "request_id": "eos"}, {}, ""),
        ({"usage": False, "output_len": 0, "output_token_ids": None}, {}, ""),
    ],
)
def test_each_condition_has_its_sentence(
    change: dict[str, object], counters: dict[str, float], reason: str
) -> None:
    found = reasons([msgspec.structs.replace(GOOD, **change)] * 2, **counters)  # type: ignore[arg-type]
    assert len(found) == bool(reason)
    assert reason in "".join(found)


def test_failed_requests_are_counted_and_the_first_cause_kept() -> None:
    seen = Seen()
    for record in (
        GOOD,
        RequestRecord(request_id="a", error="gone"),
        RequestRecord(request_id="b", error="late"),
    ):
        seen.add(record)
    assert (seen.num, seen.num_ok, seen.first_error) == (3, 1, "gone")


def test_memory_does_not_grow_with_the_records(tmp_path: Path) -> None:
    def peak(num: int) -> int:
        path = tmp_path / f"{num}" / "requests.jsonl"
        line = msgspec.json.encode(msgspec.structs.replace(GOOD, text="word " * 200)) + b"\n"
        path.parent.mkdir()
        with path.open("wb") as file:
            file.writelines(line for _ in range(num))
        seen = Seen()
        tracemalloc.start()
        for record in _records(path.parent):
            seen.add(record)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert seen.num_ok == num
        return used

    small, large = peak(50), peak(5000)
    assert large < small + 200_000


def _records(folder: Path) -> Iterator[RequestRecord]:
    return store.records(folder)
