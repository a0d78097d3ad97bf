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
from harness.registry import ROOT
from harness.schema import Load, Request, RequestRecord, Trial, TrialResult, WorkloadSpec
from harness.trial import count_tokens

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


def test_tokens_whose_ids_did_not_come_are_counted_and_told() -> None:
    """Of nine tokens two ended inside a character; the engine's counter holds all nine."""
    seen = Seen([Request(request_id="r0", max_tokens=9)])
    seen.add(msgspec.structs.replace(GOOD, text="abcdeçñ", output_token_ids=tuple(range(7))))
    outcome = msgspec.structs.replace(OUTCOME, counters={"generation_tokens": 9.0})
    assert seen.reasons(outcome, STATS) == []
    (note,) = seen.notes(outcome)
    assert note.startswith("2 of 9 output tokens came without an id") and "not judged" in note


def shared(cached_len: int) -> tuple[list[str], tuple[str, ...]]:
    """Verdict and notes on four requests of eight tokens, three of which repeat six."""
    params = {"prefix_len": 6, "suffix_len": 2, "num_prefixes": 1}
    spec = WorkloadSpec(name="shared_prefix", num_prompts=4, params={**params})
    outcome = msgspec.structs.replace(OUTCOME, trial=msgspec.structs.replace(OUTCOME.trial, workload=spec))
    seen = Seen()
    seen.add(GOOD)
    for _ in range(3):
        seen.add(msgspec.structs.replace(GOOD, cached_len=cached_len))
    return seen.reasons(outcome, STATS), seen.notes(outcome)


def test_a_shared_prefix_may_be_reused_and_nothing_else() -> None:
    assert shared(6) == (
        [],
        ("prefix cache: 56.2% of prompt tokens reused, an ideal cache would reuse 56.2%",),
    )
    assert shared(0)[1] == ("prefix cache: 0.0% of prompt tokens reused, an ideal cache would reuse 56.2%",)
    (reason,) = shared(8)[0]
    assert "75.0% of prompt tokens came from the prefix cache, but only 56.2% repeat" in reason


@pytest.mark.parametrize(("hits", "valid"), [(64.0, True), (256.0, True), (257.0, False)])
def test_a_block_that_repeats_by_chance_is_told_and_no_more(hits: float, valid: bool) -> None:
    """64 cached tokens of 256,000, as SGLang showed on one H200."""
    seen = Seen()
    for _ in range(256):
        seen.add(msgspec.structs.replace(GOOD, prompt_len=1000, input_len=1000))
    outcome = msgspec.structs.replace(OUTCOME, counters={"prefix_cache_hits": hits})
    told = f"prefix cache: {hits:.0f} of 256000 prompt tokens came from it, by chance"
    assert bool(seen.reasons(outcome, STATS)) != valid
    assert not valid or seen.notes(outcome) == (told,)


def test_output_without_usage_is_counted_after_the_timed_part(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    silent = RequestRecord(request_id="a", text="def bench(words):\n    return words")
    with store.RecordWriter(path) as write:
        write(GOOD)
        write(silent)
    count_tokens(path, str(ROOT / "models" / "tiny-moe"))
    first, second = store.records(tmp_path)
    assert first == GOOD
    assert 5 < second.output_len < 30 and not second.usage


def test_a_row_most_of_whose_requests_failed_has_no_speed() -> None:
    """An engine that hung after 2 of 24 requests was ranked by those two."""
    lost = RequestRecord(request_id="r0", error="no end after 4 s", error_kind="timeout")
    assert reasons([GOOD, lost]) == []
    assert reasons([GOOD, lost, lost]) == ["2 of 3 requests failed, the first with: no end after 4 s"]


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
