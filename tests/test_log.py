"""The experiment log: what an entry holds, that nothing is lost or forged, that notes find their entry."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import msgspec
import pytest

from harness.errors import InputError, StoreError
from harness.reporting import bundle, log
from harness.schema import Comparison, Environment, WorkloadSpec
from tests.examples import COMPARISON, ENVIRONMENT, HOSTILE, RECIPE


def entry(run_id: str = COMPARISON.run_id, date: str = ENVIRONMENT.started_at, **changes: str) -> str:
    comparison: Comparison = msgspec.structs.replace(COMPARISON, run_id=run_id, **changes)
    environment: Environment = msgspec.structs.replace(ENVIRONMENT, started_at=date)
    return log.entry(comparison, environment, RECIPE, bundle="ab" * 32)


def test_an_entry_carries_what_a_reader_needs() -> None:
    text = entry()
    for expected in (
        "## 2026-11-21T00:40:00Z 20261121-004000-example\n",
        "- commit: 0123abcd + uncommitted changes",
        "A CPU, 2 cores, 24 GB; no accelerator",
        "- results: sha256 abab",
        "| 1 | 1000-2000@c8 | engine-a |",
        "~~5000",
        "- engine-c at 1000-2000@c8 failed: out of memory",
        "- 1000-2000@c8: engine-a is faster than engine-b: 1.18x output tok/s (1.12-1.25)",
        "| engine-a | vllm | 0.32.0 | example/image:1 sha256:cdcd",
        "    docker run example/image:1 serve",
    ):
        assert expected in text, expected
    assert text.endswith("### Notes\n\n")
    assert "verysecret" not in text
    readable = [line for line in text.split("\n```json")[0].splitlines() if not line.startswith("    ")]
    assert not any("<script" in line for line in readable)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "EXPERIMENT_LOG.md"
    assert log.entries(path) == []
    log.append(path, entry())
    log.append(path, entry("second", "2026-11-22T00:00:00Z"))
    newest, oldest = log.newest_first(path)
    assert (newest.run_id, oldest.run_id) == ("second", COMPARISON.run_id)
    assert oldest.facts is not None
    assert oldest.facts.recipe.env == {"PLAIN": "1", "HF_TOKEN": "${HF_TOKEN}"}
    assert oldest.facts.recipe.args == ("--api-key", "***", "--max-num-seqs", "8")
    assert oldest.facts.rows[2].verdict == "FAIL" and oldest.facts.bundle == "ab" * 32
    assert path.read_text().startswith("# Experiment log\n")
    assert log.newest_first(path)[0] == newest


def test_rows_of_the_sample_have_its_name_of_today(tmp_path: Path) -> None:
    """Entries are never rewritten: those that call it sharegpt are read as what it was."""
    path = tmp_path / "log.md"
    rows = tuple(msgspec.structs.replace(row, scenario="sharegpt@c4") for row in COMPARISON.rows)
    environment: Environment = ENVIRONMENT
    for params, name in (({}, "sharegpt-sample@c4"), ({"path": "theirs.json"}, "sharegpt@c4")):
        spec = WorkloadSpec(name="sharegpt", params=params)
        recipe = msgspec.structs.replace(RECIPE, workloads=(spec,))
        comparison: Comparison = msgspec.structs.replace(COMPARISON, rows=rows)
        log.append(path, log.entry(comparison, environment, recipe))
        facts = log.entries(path)[-1].facts
        assert facts is not None and {row.scenario for row in facts.rows} == {name}


def test_notes_are_appended_and_find_their_entry(tmp_path: Path) -> None:
    path = tmp_path / "log.md"
    log.append(path, entry())
    before = path.read_bytes()
    date = "2026-11-23T00:00:00Z"
    forged = f"two lines\n## 2030-01-01T00:00:00Z forged\n{HOSTILE}"
    log.note(path, "20261121", forged, author="a\nb", date=date)
    log.note(path, "", "about the log", author="someone", date=date)
    assert path.read_bytes().startswith(before)
    (only,) = log.entries(path)
    (note,) = only.notes
    assert note.author == "a b" and note.about == only.run_id
    assert note.text.startswith("two lines\n## 2030-01-01T00:00:00Z forged\n<script>")
    with pytest.raises(InputError, match="empty"):
        log.note(path, only.run_id, "  \n", author="x", date=date)


def test_engine_text_cannot_forge_an_entry(tmp_path: Path) -> None:
    path = tmp_path / "log.md"
    for separator in ("\n", "\r\n", "\u2028", "\x0b", "\x85"):
        log.append(path, entry("real", question=f"q{separator}## 2030-01-01T00:00:00Z forged"))
    assert {e.run_id for e in log.entries(path)} == {"real"}
    assert all(e.facts is not None for e in log.entries(path))


def test_hand_written_notes_without_a_newline_survive(tmp_path: Path) -> None:
    path = tmp_path / "log.md"
    log.append(path, entry())
    with path.open("a") as file:
        file.write("written by hand, no newline at the end")
    log.append(path, entry("second", "2026-11-22T00:00:00Z"))
    first, second = log.entries(path)
    assert "written by hand" in first.text and second.run_id == "second"


def test_ids(tmp_path: Path) -> None:
    path = tmp_path / "log.md"
    with pytest.raises(InputError, match="the log is empty"):
        log.find(path, "x")
    log.append(path, entry("20261121-a"))
    log.append(path, entry("20261121-b", "2026-11-22T00:00:00Z"))
    assert log.find(path, "last").run_id == "20261121-b"
    assert log.find(path, "20261121-a").run_id == "20261121-a"
    with pytest.raises(InputError, match=r"several entries.*20261121-b, 20261121-a"):
        log.find(path, "20261121")


def test_a_later_schema_keeps_the_entry_readable(tmp_path: Path) -> None:
    path = tmp_path / "log.md"
    log.append(path, entry().replace('"bundle":', '"not_yet_invented":1,"bundle":'))
    (only,) = log.entries(path)
    assert only.facts is None and "| 1 | 1000-2000@c8 | engine-a |" in only.text


def write_many(path: Path, writer: int) -> None:
    for number in range(25):
        log.append(path, entry(f"w{writer}-{number}"))


def test_concurrent_writers_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log.md"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(path, w)) for w in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = log.entries(path)
    assert {e.run_id for e in found} == {f"w{w}-{n}" for w in range(4) for n in range(25)}
    assert all(e.facts is not None for e in found) and path.read_text().count("# Experiment log\n") == 1


def test_an_unwritable_log_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be appended to"):
        log.append(tmp_path, "x")


def test_bundle_signs_records_and_not_what_is_derived(tmp_path: Path) -> None:
    (tmp_path / "v" / "r1").mkdir(parents=True)
    records = tmp_path / "v" / "r1" / "requests.jsonl"
    records.write_text("{}\n")
    before = bundle.digest(tmp_path)
    (tmp_path / "report.md").write_text("derived")
    for name in ("server.log", "server-2.log"):
        (tmp_path / "v" / "r1" / name).write_text("names folders of its machine")
    (tmp_path / ".cache").write_text("hidden")
    assert bundle.digest(tmp_path) == before
    records.rename(records.with_name("scores.jsonl"))
    assert bundle.digest(tmp_path) != before
    with pytest.raises(StoreError, match="missing"):
        bundle.digest(tmp_path / "gone")
