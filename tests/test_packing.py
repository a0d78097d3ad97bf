"""The packed form of a finished trial: what is kept to the letter, what is rounded, what is left out."""

from __future__ import annotations

import lzma
from pathlib import Path

import msgspec
import numpy as np
import pytest

from harness import packing, store
from harness.compare import compare
from harness.errors import StoreError
from harness.numbers import collector
from harness.reporting import bundle
from harness.schema import Request, RequestRecord, Score
from tests import runs

LOGPROBS = (-0.1149560213, -1.4634752273, -0.0000001)


def trial(tmp_path: Path, num: int = 30) -> Path:
    """<run>/v/r1/s with records, scores that repeat them, and the sample's prompts."""
    folder = tmp_path / "run" / "v" / "r1" / "s"
    rng = np.random.default_rng(1)
    with store.RecordWriter(folder / "requests.jsonl") as write:
        for index in range(num):
            times = 0.5 + np.cumsum(rng.uniform(0.001, 0.03, 3))
            write(
                RequestRecord(
                    request_id=f"r{index}",
                    sent_at_s=0.123456789,
                    content_at_s=tuple(times.tolist()),
                    done_at_s=1.0,
                    output_len=3,
                    output_logprobs=LOGPROBS if index < 4 else None,
                    text="é <b>\u2028",
                )
            )
    with store.RecordWriter(folder / "scores.jsonl") as write:
        for index in range(4):
            write(score(f"r{index}", LOGPROBS if index else None))
    with store.RecordWriter(tmp_path / "run" / "workloads" / "s.jsonl") as write:
        for index in range(4):
            write(Request(request_id=f"r{index}", prompt_token_ids=tuple(range(900)), max_tokens=3))
    return folder


def score(request_id: str, emitted: tuple[float, ...] | None) -> Score:
    return Score(
        request_id=request_id,
        reference="ref",
        token_ids=(1, 2, 3),
        logprob=(-0.1, -1.5, -0.25),
        rank=(1, 1, 2),
        margin=(0.0, 0.0, 0.5),
        emitted_logprob=emitted,
        prompt_token_ids=tuple(range(900)),
    )


def test_packing_keeps_all_but_the_seventh_decimal(tmp_path: Path) -> None:
    folder = trial(tmp_path)
    records, scores = list(store.records(folder)), list(store.read_lines(folder / "scores.jsonl", Score))
    plain_size = sum(p.stat().st_size for p in folder.iterdir())
    store.pack(tmp_path / "run")
    assert sorted(p.name for p in folder.iterdir()) == ["requests.jsonl.xz", "scores.jsonl.xz"]
    assert sum(p.stat().st_size for p in folder.iterdir()) < plain_size / 5
    again = list(store.records(folder))
    for before, after in zip(records, again, strict=True):
        assert after.content_at_s == pytest.approx(before.content_at_s, abs=0.51e-6)
        rest = {"content_at_s": (), "sent_at_s": 0.0, "output_logprobs": None}
        assert msgspec.structs.replace(after, **rest) == msgspec.structs.replace(before, **rest)
    assert again[0].sent_at_s == 0.123457 and again[0].output_logprobs == (-0.114956, -1.463475, 0.0)
    back = list(store.read_lines(folder / "scores.jsonl", Score))
    assert back[0] == scores[0] and back[1].prompt_token_ids == scores[1].prompt_token_ids
    assert back[1].emitted_logprob == again[1].output_logprobs
    held = lzma.decompress((folder / "scores.jsonl.xz").read_bytes())
    assert b"prompt_token_ids" in held and b"899" not in held, "a prompt was written out again"


def test_what_is_packed_again_stays_byte_for_byte(tmp_path: Path) -> None:
    """Nothing more is lost by a second packing, and the run's hash is that of the first."""
    folder = trial(tmp_path)
    store.pack(tmp_path / "run")
    first = bundle.digest(tmp_path / "run")
    for name in ("requests.jsonl", "scores.jsonl"):
        text = b"".join(store.lines(folder / name))
        (folder / f"{name}.xz").unlink()
        (folder / name).write_bytes(text)
    store.pack(tmp_path / "run")
    assert bundle.digest(tmp_path / "run") == first


def test_columns_of_a_packed_file_are_those_of_the_plain_one(tmp_path: Path) -> None:
    folder = trial(tmp_path)
    before = collector.collect(folder / "requests.jsonl")
    store.pack(tmp_path / "run")
    after = collector.collect(folder / "requests.jsonl")
    np.testing.assert_allclose(after.columns.first_at_s, before.columns.first_at_s, atol=1e-6)
    np.testing.assert_allclose(after.columns.icl_s, before.columns.icl_s, atol=2e-6)
    assert (after.columns.output_len == before.columns.output_len).all() and len(after.sample()) == 30


def test_a_comparison_says_the_same_of_a_packed_run(tmp_path: Path) -> None:
    run = runs.write_run(tmp_path / "20260101-000000-x")
    before = compare(run)
    store.pack(run)
    assert not list(run.rglob("requests.jsonl"))
    after = compare(run)
    for old, new in zip(before.rows, after.rows, strict=True):
        assert old.status == new.status and old.notes == new.notes
        if old.output_throughput and new.output_throughput and old.agreement and new.agreement:
            assert new.output_throughput.mean == pytest.approx(old.output_throughput.mean, rel=1e-5)
            assert new.agreement.verdict == old.agreement.verdict
            assert new.agreement.token_match == old.agreement.token_match


def test_damage_is_carried_over_and_told(tmp_path: Path) -> None:
    folder = trial(tmp_path, num=3)
    with (folder / "requests.jsonl").open("ab") as file:
        file.write(b'not json\n{"request_id":"r9","content_at_s":[null]}\n{"request_id":"cut')
    store.pack(tmp_path / "run")
    found = collector.collect(folder / "requests.jsonl")
    assert found.summary.num == 3 and found.summary.bad_lines == 2 and found.summary.truncated


def test_a_damaged_packed_file_is_a_sentence(tmp_path: Path) -> None:
    folder = trial(tmp_path)
    store.pack(tmp_path / "run")
    path = folder / "requests.jsonl.xz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(StoreError, match=r"requests\.jsonl\.xz cannot be read"):
        list(store.records(folder))
    with pytest.raises(StoreError, match=r"requests\.jsonl\.xz cannot be read"):
        collector.collect(folder / "requests.jsonl")


def test_a_new_measurement_replaces_the_packed_one(tmp_path: Path) -> None:
    folder = trial(tmp_path)
    store.pack(tmp_path / "run")
    with store.RecordWriter(folder / "requests.jsonl") as write:
        write(RequestRecord(request_id="new"))
    assert [r.request_id for r in store.records(folder)] == ["new"]
    assert not (folder / "requests.jsonl.xz").exists()


def test_a_file_read_in_byte_ranges_stays_plain(tmp_path: Path) -> None:
    folder = trial(tmp_path)
    store.pack(tmp_path / "run", below=2000)
    assert (folder / "requests.jsonl").exists() and (folder / "scores.jsonl").exists()


def test_a_clock_that_steps_back_is_kept() -> None:
    line = b'{"request_id":"a","content_at_s":[2.0,1.5]}\n'
    assert packing.plain(packing.packed(line, {}), {}) == line
