"""`bench ... against=last`: how far a run is from the newest one that asked the same, and what else changed.

Nothing is merged: an entry is compared with where every row of the run has its like in it, by variant, model,
workload, load and what the command line changed. Label, version, launcher and host may differ; they are told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from harness import store
from harness.history import changes, records
from harness.history.series import METRICS, Point, asked, points
from harness.numbers.measured import calibrations
from harness.reporting import log, replay
from harness.reporting.cells import number
from harness.schema import Comparison, LogFacts

NEWEST = "last"


def check(path: Path, name: str) -> None:
    """Raises InputError for an entry that the log does not have."""
    if name not in ("", NEWEST):
        log.find(path, name)


def remarks(path: Path, run: Path, name: str) -> list[str]:
    """What is to be said of a run that was just logged, one line each.

    `name`: an entry of the log, or "last" for the newest that is comparable. Other runs' folders are looked
    for beside `run`. Raises InputError for an entry that is not there, StoreError for results that cannot be
    read.
    """
    past = records.past(log.entries(path), run.parent)
    now = next((facts for facts in past if facts.run_id == run.name), None)
    if now is None:
        return [f"against={name}: the log has no readable entry of {run.name}, so nothing was compared."]
    others = [facts for facts in reversed(past) if facts.run_id != run.name and facts.date <= now.date]
    if name != NEWEST:
        others = [facts for facts in past if facts.run_id == log.find(path, name).run_id]
    found = next((facts for facts in others if not _lacking(facts, now)), None)
    if found is None:
        return [_none(name, others, now)]
    return list(_compared(found, now, run))


def _lacking(before: LogFacts, now: LogFacts) -> list[Point]:
    """Rows of now that the entry does not have."""
    had = {asked(point.key) for point in points(before)}
    return [point for point in points(now) if asked(point.key) not in had]


def _none(name: str, others: Sequence[LogFacts], now: LogFacts) -> str:
    """Why nothing was compared, with the entry that comes nearest."""
    if not others:
        return f"against={name}: the log has no earlier run, so nothing was compared."
    nearest = min(others, key=lambda facts: len(_lacking(facts, now)))
    lacking = _lacking(nearest, now)
    first = lacking[0].key
    words = f"{first.variant} at {first.workload} of {first.model}"
    more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
    how = f" ({asked(first).changed})" if asked(first).changed else ""
    return (
        f"against={name}: no entry asked the same, so nothing was compared; {nearest.run_id}, which comes "
        f"nearest, has no {words}{how}{more}."
    )


def _compared(before: LogFacts, now: LogFacts, run: Path) -> Iterator[str]:
    old = {asked(point.key): point for point in points(before)}
    pairs = [(old[asked(point.key)], point) for point in points(now)]
    yield f"against {before.run_id} of {before.date}:"
    kept = msgspec.structs.replace(before, rows=tuple(point.row for point, _ in pairs))
    comparison = store.read(run / "comparison.json", Comparison)
    for line, (then, point) in zip(replay.distance(kept, comparison), pairs, strict=True):
        yield "; ".join((line, *_latencies(then, point)))
    found = dict.fromkeys(line for then, point in pairs for line in _different(then, point))
    found |= dict.fromkeys(replay.speeds(calibrations(run.parent / before.run_id), calibrations(run)))
    yield from found or ["nothing else that is kept was different"]


def _latencies(then: Point, now: Point) -> Iterator[str]:
    for metric in METRICS[1:]:
        old, new = then.value(metric), now.value(metric)
        if old and new:
            yield f"{metric.title} {number(old.mean)} then, {number(new.mean)} now"


def _different(then: Point, now: Point) -> Iterator[str]:
    if then.key.host != now.key.host:
        kinds = f"{then.key.host} then, {now.key.host} now"
        yield f"another kind of host: {kinds}; differences may be the machines'"
    shared = ("commit", "host", "driver", "os", "docker")
    for line in changes.different(then, now):
        ours = line.partition(":")[0] in shared
        yield line if ours else f"{now.key.variant}: {line}"
