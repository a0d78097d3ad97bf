"""Throughput per accelerator against interactivity, as a section of report.html."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.numbers.steady import LUMP_SHARE
from harness.reporting import plots
from harness.reporting.curves import Curve
from harness.reporting.report_html import Section
from harness.schema import Metrics, Row

Points = dict[str, dict[str, list[tuple[float, float]]]]
"""Workload -> variant -> (interactivity, output throughput per accelerator) of each load."""


def section(rows: Sequence[Row], order: Sequence[str]) -> Section:
    """A frontier per workload; where no workload has two loads there is none, and all share one plot."""
    found = _points(rows)
    per = "per accelerator" if any(row.num_gpus for row in rows) else "of the host"
    axes = ("tok/s one user sees (1 / TPOT)", f"output tok/s {per}")
    about = (
        f"Up and to the right is better: output tokens/s {per} against the tokens/s that one user sees "
        "(1 / median TPOT)."
    )
    if len(found) > 1 and all(len(p) == 1 for groups in found.values() for p in groups.values()):
        curves = {workload: _curves(groups) for workload, groups in found.items()}
        return Section(
            "Throughput and interactivity",
            f"{about} Each workload was run at one load; several loads (concurrency=1,8,64) would draw a "
            "frontier for each. Logarithmic axes.",
            plots=[plots.overview("all workloads", axes, curves, order)],
        )
    return Section(
        "Throughput and interactivity",
        f"{about} Points of one variant are its loads; nothing beats the dashed line.",
        plots=[plots.points(workload, axes, _curves(groups), order) for workload, groups in found.items()],
    )


def _curves(groups: dict[str, list[tuple[float, float]]]) -> list[Curve]:
    return [Curve(name, *np.array(sorted(points)).T) for name, points in groups.items()]


def _points(rows: Sequence[Row]) -> Points:
    found: Points = {}
    for row in rows:
        point = _point(row)
        if point:
            workload = row.scenario.partition("@")[0]
            found.setdefault(workload, {}).setdefault(row.variant, []).append(point)
    return found


def _point(row: Row) -> tuple[float, float] | None:
    """(interactivity, output throughput per accelerator) of a row that counts."""
    tpot = row.metrics.tpot_s if row.metrics else None
    if not tpot or not tpot.p50 or not row.output_throughput or not row.rankable:
        return None
    if row.metrics and _held_back(row.metrics):
        return None
    return 1.0 / tpot.p50, row.output_throughput.mean / max(1, row.num_gpus)


def _held_back(found: Metrics) -> bool:
    """Whether most answers arrived whole: their TPOT then says nothing of what a user sees."""
    tpot, e2el = found.tpot_s, found.e2el_s
    if not tpot or not e2el or tpot.p50 is None or e2el.p50 is None or not found.total_output_tokens:
        return False
    return tpot.p50 < LUMP_SHARE * e2el.p50 * found.completed / found.total_output_tokens
