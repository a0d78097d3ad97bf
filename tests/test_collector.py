"""The collector says the same as the records do, whatever state the file is in."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import StoreError
from harness.numbers.collector import SIDECAR, collect
from harness.numbers.columns import columns
from harness.numbers.metrics import metrics, summarize
from harness.schema import RequestRecord


def record(index: int, *gaps: float, **fields: object) -> RequestRecord:
    sent = float(index)
    times = tuple(sent + 0.1 + t for t in np.cumsum((0.0, *gaps)).tolist())
    content = {"content_at_s": times, "output_len": len(times), "usage": True}
    return RequestRecord(request_id=f"r{index}", sent_at_s=sent, **{**content, **fields})  # type: ignore[arg-type]


def written(path: Path, records: list[RequestRecord], tail: bytes = b"") -> Path:
    path.write_bytes(b"".join(msgspec.json.encode(r) + b"\n" for r in records) + tail)
    return path


Drawn = tuple[list[float], str]
gap_lists = st.lists(st.floats(0.001, 9.0), max_size=6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(gap_lists, st.sampled_from(["", "", "reset"])), max_size=30))
def test_same_as_the_records(tmp_path_factory: pytest.TempPathFactory, drawn: list[Drawn]) -> None:
    records = [
        record(i, *gaps, error=error, error_kind=error, text="ünïcode \n" * 3, prompt_len=i)
        for i, (gaps, error) in enumerate(drawn)
    ]
    path = written(tmp_path_factory.mktemp("trial") / "requests.jsonl", records)
    found, expected = collect(path).columns, columns(records)
    for name in ("ok", "sent_at_s", "first_at_s", "last_at_s", "input_len", "output_len"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_allclose(found.icl_s, expected.icl_s, rtol=1e-6, atol=1e-7)


def test_sidecar_is_made_by_several_workers_used_and_remade(tmp_path: Path) -> None:
    records = [record(i, 0.5, 0.25, i / 100) for i in range(300)]
    path = written(tmp_path / "requests.jsonl", records)
    first = collect(path, num_workers=3, sidecar_bytes=0)
    assert summarize(first.columns, {}) == summarize(collect(path).columns, {})
    assert isinstance(first.columns.icl_s, np.memmap)
    made = (tmp_path / SIDECAR / "summary.json").stat().st_mtime_ns
    assert collect(path, sidecar_bytes=0).summary == first.summary
    assert (tmp_path / SIDECAR / "summary.json").stat().st_mtime_ns == made
    written(path, records[:10])
    assert collect(path, num_workers=2, sidecar_bytes=0).summary.num == 10
    assert sorted(os.listdir(tmp_path)) == [SIDECAR, "requests.jsonl"]


def test_more_workers_than_records(tmp_path: Path) -> None:
    path = written(tmp_path / "requests.jsonl", [record(0, 1.0)])
    assert collect(path, num_workers=4, sidecar_bytes=0).summary.num == 1


@pytest.mark.parametrize(
    ("tail", "words", "num"),
    [
        (b'{"request_id": "x", "sent_at', "the last record is cut off", 2),
        (b"not json\n", "1 records cannot be read.*the first: not json", 2),
        (b'{"request_id":"n","sent_at_s":NaN}\n', "1 records cannot be read", 2),
        (b'{"request_id":"n","sent_at_s":null}\n', "1 records cannot be read", 2),
        (b"\n\n", "", 2),
        (b'{"request_id":"n","from_the_future":[1,2],"usage":true}\n', "", 3),
    ],
)
def test_a_damaged_line_costs_only_itself(tmp_path: Path, tail: bytes, words: str, num: int) -> None:
    path = written(tmp_path / "requests.jsonl", [record(0, 1.0), record(1, 1.0)], tail)
    found = collect(path)
    assert found.summary.num == num and found.columns.ok[:2].all()
    if words:
        (note,) = found.notes
        assert re.search(words, note)
    else:
        assert found.notes == ()


def test_a_clock_step_costs_only_its_requests(tmp_path: Path) -> None:
    records = [record(0, 1.0), record(5, 1.0, -3.0), record(9, content_at_s=(2.0,))]
    found = collect(written(tmp_path / "requests.jsonl", records))
    assert "2 requests have times that run backwards" in found.notes[0]
    m = summarize(found.columns, {})
    assert (m.completed, m.failed) == (1, 2)
    assert m.icl_s is not None and m.icl_s.count == 1


def test_no_success_is_said_with_the_causes(tmp_path: Path) -> None:
    failed = [record(i, error="gone", error_kind="reset" if i else "timeout") for i in range(3)]
    found = collect(written(tmp_path / "requests.jsonl", failed))
    assert found.notes == ("no request succeeded (2 reset, 1 timeout)",)
    assert "the file is empty" in collect(written(tmp_path / "empty.jsonl", [])).notes[0]


def test_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file"):
        collect(tmp_path / "requests.jsonl")


def test_metrics_agree_with_the_in_memory_path(tmp_path: Path) -> None:
    records = [record(i, 0.01 * i, 0.02) for i in range(50)]
    found = summarize(collect(written(tmp_path / "requests.jsonl", records)).columns, {"ttft_s": 1.0})
    expected = metrics(records, {"ttft_s": 1.0})
    assert found.request_goodput == expected.request_goodput
    assert found.icl_s is not None and expected.icl_s is not None
    assert found.icl_s.p99 == pytest.approx(expected.icl_s.p99, rel=1e-6)
    assert found.tpot_s == expected.tpot_s


def test_the_sample_of_a_large_file_is_whole_records_of_the_same_requests(tmp_path: Path) -> None:
    kept = []
    for variant, gap in (("a", 0.1), ("b", 0.2)):
        folder = tmp_path / variant
        folder.mkdir()
        records = [record(i, gap, text="t") for i in range(40)]
        found = collect(written(folder / "requests.jsonl", records), num_workers=2, sidecar_bytes=0)
        assert all(r in records for r in found.sample())
        kept.append({r.request_id for r in found.sample()})
    assert kept[0] == kept[1] and kept[0]
