"""The verbs on the log: filters, notes, checking results, and how far a replay is from its entry."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from harness import store
from harness.errors import InputError
from harness.reporting import bundle, history, log, logbook, replay
from harness.schema import Calibration, Comparison, Environment, Interval
from tests.examples import COMPARISON, ENVIRONMENT, RECIPE


def entry(run_id: str, date: str, digest: str = "", **changes: object) -> str:
    comparison: Comparison = msgspec.structs.replace(COMPARISON, run_id=run_id, **changes)
    environment: Environment = msgspec.structs.replace(ENVIRONMENT, started_at=date, image_digests={})
    return log.entry(comparison, environment, RECIPE, bundle=digest)


def healthy(factor: float = 1.0) -> tuple[object, ...]:
    """The example's healthy rows, throughput times `factor`."""
    rows = [row for row in COMPARISON.rows if row.output_throughput and row.agreement]
    return tuple(
        msgspec.structs.replace(r, output_throughput=_times(r.output_throughput, factor)) for r in rows[:2]
    )


def _times(rate: Interval | None, factor: float) -> Interval | None:
    return rate and Interval(
        mean=rate.mean * factor, low=rate.low * factor, high=rate.high * factor, num=rate.num
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "LOG.md"
    log.append(found, entry("20261120-a", "2026-11-20T00:00:00Z"))
    log.append(found, entry("20261121-b", "2026-11-21T00:00:00Z", rows=healthy()))
    return found


def test_list_is_newest_first_and_filters(path: Path, tmp_path: Path) -> None:
    def ids(*words: str) -> list[str]:
        text, status = logbook.run(path, tmp_path, words)
        assert status == 0
        return [line.split()[0] for line in text.splitlines() if line.startswith("2026")]

    assert ids() == ids("list") == ["20261121-b", "20261120-a"]
    assert ids("verdict=fail") == ["20261120-a"]
    assert ids("variant=engine-wrong", "model=tiny") == ["20261120-a"]
    assert ids("num=1") == ["20261121-b"] and "1 older entries" in logbook.run(path, tmp_path, ["num=1"])[0]
    assert "no such entry" in logbook.run(path, tmp_path, ["model=other"])[0]
    for wrong in ("colour=red", "num=x"):
        with pytest.raises(InputError):
            logbook.run(path, tmp_path, [wrong])


def test_show_and_note(path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    logbook.run(path, tmp_path, ["note", "20261120-a", "fans", "were", "off"])
    logbook.run(path, tmp_path, ["a note on the log as a whole"])
    assert path.read_bytes().startswith(before)
    shown, _ = logbook.run(path, tmp_path, ["show", "20261120"])
    assert "## 2026-11-20T00:00:00Z 20261120-a" in shown
    assert f"by {logbook.author()}:\nfans were off" in shown
    assert "fans were off" in logbook.run(path, tmp_path, ["list"])[0]
    assert "20261121-b" in logbook.run(path, tmp_path, ["show"])[0]
    with pytest.raises(InputError, match="names no entry"):
        logbook.run(path, tmp_path, ["show", "nothing"])


def test_check_finds_missing_and_changed_results(path: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    records = results / "20261122-c" / "v" / "requests.jsonl"
    records.parent.mkdir(parents=True)
    records.write_text("{}\n")
    digest = bundle.digest(results / "20261122-c")
    log.append(path, entry("20261122-c", "2026-11-22T00:00:00Z", digest))
    found = logbook.check(path, results)
    assert [line.split(":")[0] for line in found] == ["20261120-a", "20261121-b"]
    assert "without a hash" in found[0]
    records.write_text('{"changed": 1}\n')
    assert "20261122-c: its results changed" in logbook.check(path, results)[-1]
    logbook.run(path, results, ["sign", "20261122-c", "one", "line", "was", "mended"])
    assert not any("20261122-c" in line for line in logbook.check(path, results))
    assert "one line was mended" in logbook.run(path, results, ["show", "20261122-c"])[0]
    records.write_text('{"changed": 2}\n')
    assert "20261122-c: its results changed" in logbook.check(path, results)[-1]
    with pytest.raises(InputError, match="why its results changed"):
        logbook.run(path, results, ["sign", "20261122-c"])
    records.unlink()
    records.parent.rmdir()
    records.parent.parent.rmdir()
    assert "missing" in logbook.check(path, results)[-1]
    text, status = logbook.run(path, results, ["check"])
    assert "missing" in text and status == 1, "a script sees a finding by the exit status"


def test_a_resumed_run_is_judged_by_its_newest_entry(tmp_path: Path) -> None:
    path, results = tmp_path / "LOG.md", tmp_path / "results"
    (results / "r").mkdir(parents=True)
    log.append(path, entry("r", "2026-11-22T00:00:00Z", "0" * 64))
    log.append(path, entry("r", "2026-11-22T01:00:00Z", bundle.digest(results / "r")))
    assert logbook.check(path, results) == []
    assert logbook.run(path, results, ["check"])[1] == 0


def test_replay_says_how_far_it_is(path: Path) -> None:
    old = log.find(path, "20261121-b")
    assert replay.recipe_of(old).variants == RECIPE.variants
    assert old.facts is not None
    now = msgspec.structs.replace(COMPARISON, rows=healthy(1.2)[:1])
    lines = replay.distance(old.facts, now)
    assert lines[0] == "engine-b at 1000-2000@c8: 1000 then, 1200 output tok/s now (+20.0%, intervals apart)"
    assert lines[1] == "engine-a at 1000-2000@c8: not measured again"
    noise = replay.distance(old.facts, msgspec.structs.replace(COMPARISON, rows=healthy(1.01)))
    assert "within noise" in noise[0]


def test_replay_refuses_other_images(tmp_path: Path) -> None:
    path = tmp_path / "LOG.md"
    log.append(path, log.entry(COMPARISON, ENVIRONMENT, RECIPE))
    with pytest.raises(InputError, match=r"example/image:1 is .* used sha256:cdcd.*docker pull"):
        replay.recipe_of(log.find(path, "last"))


def test_replay_says_what_else_changed(tmp_path: Path) -> None:
    path = tmp_path / "LOG.md"
    for name, cpu in (("20261120-000000-a", 1000.0), ("20261121-000000-replay-a", 900.0)):
        log.append(path, entry(name, f"{name[:4]}-11-{name[6:8]}T00:00:00Z"))
        taken = Calibration(taken_at="", cpu_mb_s=cpu, memory_gb_s=10.0, load_average=0.0)
        store.write(tmp_path / name / "v" / "r1" / "calibration.json", taken)
    old, new = (log.find(path, name) for name in ("20261120", "20261121"))
    lines = replay.differences(old, new, COMPARISON, tmp_path / new.run_id)
    assert "host's sha256: 1000 MB/s then, 900 now (-10.0%)" in lines
    assert old.facts is not None
    other = msgspec.structs.replace(old.facts, commit="f" * 40, host="elsewhere")
    assert [
        line.partition(":")[0] for line in replay.circumstances(old.facts, other, tmp_path, tmp_path)
    ] == [
        "commit",
        "host",
    ]


@pytest.mark.parametrize(
    "run_id", ["20261121-031457-all", "20261121-all", "20261121-031457-replay-all", "all"]
)
def test_a_replay_of_a_replay_keeps_its_name(run_id: str) -> None:
    assert replay.slug(run_id) == "replay-all"


def test_history_marks_what_got_slower(path: Path) -> None:
    question, model = RECIPE.question, RECIPE.model
    assert history.regressions(history.of(log.entries(path), question, model)) == []
    log.append(path, entry("20261122-c", "2026-11-22T00:00:00Z", rows=healthy(0.7)))
    past = history.of(log.entries(path), question, model)
    assert past.dates == ["2026-11-20T00:00:00Z", "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z"]
    lines = history.regressions(past)
    assert lines[0] == ("engine-b at 1000-2000@c8: 30% slower than in 20261121-b (intervals do not overlap)")
    names = {curve.name: list(curve.x) for curve in history.curves(past, "1000-2000@c8")}
    assert names == {"engine-b": [0, 1, 2], "engine-a": [0, 1, 2]}
    assert history.of(log.entries(path), "another question", model).facts == ()
    assert history.of(log.entries(path), question, model, ENVIRONMENT.hostname_hash).facts == past.facts
    assert history.of(log.entries(path), question, model, "another host").facts == ()
