"""Goodput of every row that has an SLO, and the largest rate within it where one was searched for. Pure."""

from __future__ import annotations

from harness.reporting.cells import number
from harness.schema import Comparison, GoodputLimit

HEADERS = (
    "variant",
    "scenario",
    "goodput requests/s",
    "of requests/s",
    "largest rate within the SLO",
    "limit lies in",
    "trials",
)
ABOUT = (
    "Goodput: requests/s that met every limit of the SLO, TTFT and E2EL counted from when a request was due "
    "(waiting to be sent included). Where the largest such rate was searched for, the "
    "row of the table is the trial at that rate; the limit lies between it and the smallest failing rate, "
    "over all restarts."
)


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Cells under HEADERS, a line per row of the table that has a goodput or a search."""
    limits = {(one.variant, one.scenario): one for one in comparison.limits}
    found: list[tuple[str, ...]] = []
    for row in comparison.rows:
        limit = limits.get((row.variant, row.scenario))
        goodput = row.metrics.request_goodput if row.metrics else None
        if limit is None and goodput is None:
            continue
        rate = number(row.metrics.request_throughput) if row.metrics else "-"
        said = "-" if goodput is None else number(goodput)
        found.append((row.variant, row.scenario, said, rate, *_limit(limit)))
    return found


def _limit(limit: GoodputLimit | None) -> tuple[str, str, str]:
    if limit is None:
        return "-", "-", "-"
    upper = "?" if limit.high is None else number(limit.high)
    tried = f"{limit.num_trials} in {limit.num_restarts} restart" + "s" * (limit.num_restarts > 1)
    return number(limit.rate), f"{number(limit.low)} .. {upper}", tried


def lines(comparison: Comparison) -> list[str]:
    """One line per search for a terminal."""
    return [f"{one.variant} at {one.scenario}: {one.words}" for one in comparison.limits]
