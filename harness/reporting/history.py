"""The same question over past runs, from the experiment log: values by run, and what got slower. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from harness.reporting.curves import REGRESSION, Curve
from harness.reporting.log import Entry
from harness.schema import Interval, LogFacts


class Past(NamedTuple):
    """Runs of one question, oldest first, one per run id (its newest entry)."""

    facts: tuple[LogFacts, ...]

    @property
    def dates(self) -> list[str]:
        """Start of each run."""
        return [f.date for f in self.facts]


def of(entries: Sequence[Entry], question: str, model: str, host: str = "") -> Past:
    """Runs in the log that asked the same of the same model, on one host where `host` names it."""
    newest: dict[str, LogFacts] = {}
    for entry in entries:
        facts = entry.facts
        asked = (facts.recipe.question, facts.recipe.model) if facts else ()
        if facts and asked == (question, model) and host in ("", facts.host):
            newest[entry.run_id] = facts
    return Past(tuple(sorted(newest.values(), key=lambda f: f.date)))


def curves(past: Past, scenario: str) -> list[Curve]:
    """Output tokens/s with intervals per variant; x are indices into past.dates."""
    points: dict[str, list[tuple[int, Interval]]] = {}
    for index, facts in enumerate(past.facts):
        for row in facts.rows:
            if row.scenario == scenario and row.output_throughput and row.rankable:
                points.setdefault(row.variant, []).append((index, row.output_throughput))
    return [
        Curve(
            variant,
            np.array([i for i, _ in found], dtype=np.float64),
            np.array([v.mean for _, v in found]),
            np.array([v.low for _, v in found]),
            np.array([v.high for _, v in found]),
        )
        for variant, found in points.items()
    ]


def regressions(past: Past) -> list[str]:
    """What the newest run does worse than the one before it on the same host, in words."""
    if not past.facts:
        return []
    newest = past.facts[-1]
    lines = []
    for row in newest.rows:
        before = _before(past, newest, row.variant, row.scenario)
        if before is None:
            continue
        name, (run_id, rate, verdict) = f"{row.variant} at {row.scenario}", before
        if row.verdict == "FAIL" and verdict == "PASS":
            lines.append(f"{name}: agreement was PASS in {run_id} and is FAIL now")
        if row.status == "done" and row.output_throughput:
            lines += _slower(name, run_id, rate, row.output_throughput)
        elif row.status != "done":
            lines.append(f"{name}: {row.status} now, measured in {run_id}")
    return lines


def _slower(name: str, run_id: str, before: Interval, now: Interval) -> list[str]:
    loss = 1 - now.mean / before.mean
    if loss < REGRESSION:
        return []
    if min(now.num, before.num) < 2:
        sure = "one restart each: may be noise"
    elif now.high < before.low:
        sure = "intervals do not overlap"
    else:
        return []
    return [f"{name}: {loss:.0%} slower than in {run_id} ({sure})"]


def _before(past: Past, newest: LogFacts, variant: str, scenario: str) -> tuple[str, Interval, str] | None:
    for facts in reversed(past.facts[:-1]):
        if facts.host != newest.host:
            continue
        for row in facts.rows:
            same = (row.variant, row.scenario) == (variant, scenario)
            if same and row.status == "done" and row.output_throughput:
                return facts.run_id, row.output_throughput, row.verdict
    return None
