"""Runs of the log with what their kept results add: labels and machines of entries that do not say them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from harness import store
from harness.errors import StoreError
from harness.label import provenance
from harness.reporting import log
from harness.reporting.log import Entry
from harness.schema import Comparison, Environment, LogFacts, Noun

N = TypeVar("N", bound=Noun)


def past(entries: Sequence[Entry], results: Path) -> list[LogFacts]:
    """One per run id, its newest readable entry, oldest first."""
    newest = {e.run_id: replace(e.facts, run_id=e.run_id) for e in entries if e.facts}
    found = (completed(facts, results / facts.run_id) for facts in newest.values())
    return sorted(found, key=lambda facts: facts.date)


def completed(facts: LogFacts, run: Path) -> LogFacts:
    """The same with what the run's folder adds, where it is kept.

    Labels and machine, where the entry is older than these; rows as they are told today: a series holds
    figures of one definition, and no change of ours.
    """
    if not run.is_dir():
        return facts
    environment = _read(run / "environment.json", Environment)
    comparison = _read(run / "comparison.json", Comparison)
    return replace(
        facts,
        labels=facts.labels or provenance.labels(run),
        machine=facts.machine or (log.machine_of(environment) if environment else None),
        rows=tuple(log.logged(row) for row in comparison.rows) if comparison else facts.rows,
    )


def _read(path: Path, kind: type[N]) -> N | None:
    try:
        return store.read(path, kind)
    except StoreError:
        return None  # what the log says stands then
