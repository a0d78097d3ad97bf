"""Throughput per accelerator against interactivity, as a section of report.html."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.reporting import plots
from harness.reporting.curves import Curve
from harness.reporting.report_html import Section
from harness.schema import Row

Point = tuple[float, float, float, float]
"""Interactivity; output throughput per accelerator, with the ends of its interval."""
Points = dict[str, dict[str, list[Point]]]
"""Workload -> variant -> a point of each load."""


def section(rows: Sequence[Row], order: Sequence[str]) -> Section:
    """A frontier per workload; where no workload has two loads there is none, and all share one plot."""
    found = _points(rows)
    per = "per accelerator" if any(row.num_gpus for row in rows) else "of the host"
    axes = ("tok/s one user sees (1 / TPOT)", f"output tok/s {per}")
    about = (
        f"Up and to the right is better: output tokens/s {per} against the tokens/s that one user sees "
        "(1 / median TPOT)."
    )
    bands = "Bands are 95 % intervals over server restarts." if _known(found) else "One restart: no bands."
    if len(found) > 1 and all(len(p) == 1 for groups in found.values() for p in groups.values()):
        curves = {workload: _curves(groups) for workload, groups in found.items()}
        return Section(
            "Throughput and interactivity",
            f"{about} {bands} Each workload was run at one load; several loads (concurrency=1,8,64) would "
            "draw a frontier for each. Logarithmic axes.",
            first=True,
            plots=[plots.overview("all workloads", axes, curves, order)],
        )
    return Section(
        "Throughput and interactivity",
        f"{about} {bands} Points of one variant are its loads; nothing beats the dashed line.",
        first=True,
        plots=[plots.points(workload, axes, _curves(groups), order) for workload, groups in found.items()],
    )


def _known(found: Points) -> bool:
    return any(low < high for groups in found.values() for p in groups.values() for _, _, low, high in p)


def _curves(groups: dict[str, list[Point]]) -> list[Curve]:
    return [Curve(name, *np.array(sorted(points)).T) for name, points in groups.items()]


def _points(rows: Sequence[Row]) -> Points:
    found: Points = {}
    for row in rows:
        point = _point(row)
        if point:
            workload = row.scenario.partition("@")[0]
            found.setdefault(workload, {}).setdefault(row.variant, []).append(point)
    return found


def _point(row: Row) -> Point | None:
    """That of a row that counts."""
    tpot = row.metrics.tpot_s if row.metrics else None
    if not tpot or not tpot.p50 or not row.output_throughput or not row.rankable:
        return None
    if row.metrics and row.metrics.delivered:
        return None
    rate, num = row.output_throughput, max(1, row.num_gpus)
    return 1.0 / tpot.p50, rate.mean / num, rate.low / num, rate.high / num
