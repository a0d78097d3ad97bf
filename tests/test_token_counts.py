"""Three token counts: agreement, disagreement with names, and what is left out."""

from __future__ import annotations

from typing import Any

import msgspec

from harness.numbers.token_counts import Tally, TokenCounts, withheld
from harness.schema import RequestRecord


def record(usage: int | None, ids: int | None, error: str = "") -> RequestRecord:
    kept: dict[str, Any] = {"output_token_ids": tuple(range(ids))} if ids is not None else {}
    return RequestRecord(request_id="r", output_len=usage or 0, usage=usage is not None, error=error, **kept)


def counted(records: list[RequestRecord], counters: dict[str, float]) -> TokenCounts:
    tally = Tally()
    for one in records:
        tally.add(one)
    return tally.counts(counters)


def test_agreement_within_one_percent() -> None:
    counts = counted([record(1000, 1000)] * 3, {"generation_tokens": 3020.0})
    assert (counts.usage, counts.counters, counts.received, counts.invalid) == (3000, 3020.0, 3000, "")


def test_each_disagreement_is_named() -> None:
    assert "counters grew by 3100" in counted([record(1000, 1000)] * 3, {"generation_tokens": 3100.0}).invalid
    said = counted([record(1000, 900)] * 3, {}).invalid
    assert "usage says 3000" in said and "ids received are 2700" in said


def test_a_failed_request_takes_the_counter_out() -> None:
    counts = counted([record(10, 10), record(None, 4, "died")], {"generation_tokens": 14.0})
    assert (counts.usage, counts.counters, counts.received, counts.invalid) == (10, None, 10, "")


def test_without_usage_the_rest_is_compared() -> None:
    counts = counted([record(None, 10), record(10, 10)], {"generation_tokens": 40.0})
    assert counts.usage is None and counts.num_without_usage == 1 and "ids received are 20" in counts.invalid
    assert counted([], {}).invalid == ""


SPELT = RequestRecord(
    request_id="text-9",
    usage=True,
    output_len=32,
    text="ç" * 13 + "ñýú",
    output_token_ids=(*(103,) * 13, 112, 124, 121),
)
"""As llama.cpp (xllamacpp 2026.10.11549) answered with tiny-moe: two tokens a character, one id came."""


def test_ids_that_end_inside_a_character_are_counted_where_usage_and_counter_agree() -> None:
    counts = counted([record(480, 480), SPELT], {"generation_tokens": 512.0})
    assert (counts.usage, counts.received, counts.withheld, counts.invalid) == (512, 512, 16, "")


def test_without_a_counter_ids_that_lack_stay_a_disagreement() -> None:
    counts = counted([record(480, 480), SPELT], {})
    assert counts.withheld == 0 and "usage says 512, the ids received are 496" in counts.invalid
    counts = counted([record(480, 480), SPELT], {"generation_tokens": 496.0})
    assert counts.withheld == 0 and counts.invalid


def test_no_more_ids_are_forgiven_than_characters_explain() -> None:
    lost = msgspec.structs.replace(SPELT, text="c" * 20 + "ñýú")
    assert withheld(lost) == 3 and withheld(record(32, 16)) == 0 and withheld(record(None, 16)) == 0
    counts = counted([record(480, 480), lost], {"generation_tokens": 512.0})
    assert "the ids received are 499" in counts.invalid
