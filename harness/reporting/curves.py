"""Points of the report's plots, from columns and telemetry, at any size. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from harness.numbers.columns import Columns, Floats
from harness.numbers.silences import silences as find_silences
from harness.schema import Sample, Score

NUM_POINTS = 200
NUM_BINS = 40
REGRESSION = 0.05
"""Relative loss of output throughput against the run before that is marked."""


class Curve(NamedTuple):
    """One line of a plot."""

    name: str
    x: Floats
    y: Floats
    low: Floats | None = None
    high: Floats | None = None
    """Band around y, where there is one."""


def cdf(name: str, values: Floats, factor: float = 1e3) -> Curve | None:
    """Share of requests at or below a latency; x in milliseconds by default, at most NUM_POINTS points."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return None
    shares = np.linspace(0.0, 1.0, min(NUM_POINTS, max(2, finite.size)))
    return Curve(name, np.quantile(finite, shares) * factor, shares)


def over_time(name: str, table: Columns, field: str) -> Curve | None:
    """Median of a latency in milliseconds by the time requests were sent, with a band from p10 to p90."""
    values, sent = getattr(table, field)[table.ok], table.sent_at_s[table.ok]
    known = np.isfinite(values)
    values, sent = values[known], sent[known]
    if values.size < 2:
        return None
    edges = np.linspace(sent.min(), sent.max(), min(NUM_BINS, max(2, values.size // 3)) + 1)
    place = np.clip(np.digitize(sent, edges) - 1, 0, edges.size - 2)
    bins = [i for i in range(edges.size - 1) if np.any(place == i)]
    q = np.array([np.quantile(values[place == i], (0.1, 0.5, 0.9)) for i in bins]) * 1e3
    middle = ((edges[:-1] + edges[1:]) / 2)[bins]
    return Curve(name, middle, q[:, 1], q[:, 0], q[:, 2])


def gauge(name: str, samples: Sequence[Sample], key: str) -> Curve | None:
    """One engine figure over the trial; None when the engine does not show it."""
    points = [(s.at_s, s.engine[key]) for s in samples if key in s.engine]
    if len(points) < 2:
        return None
    data = np.array(points, dtype=np.float64)
    return Curve(name, data[:, 0], data[:, 1])


def silences(name: str, table: Columns) -> Curve | None:
    """Seconds without a chunk for any stream over the trial, 0 in between; None where there are none."""
    found = find_silences(table)
    if found is None or not found.found:
        return None
    steps = [(one.at_s, one.at_s, one.at_s + one.length_s, one.at_s + one.length_s) for one in found.found]
    heights = [(0.0, one.length_s, one.length_s, 0.0) for one in found.found]
    end = float(np.nanmax(table.last_at_s))
    x = np.array([0.0, *(x for step in steps for x in step), end])
    return Curve(name, x, np.array([0.0, *(y for step in heights for y in step), 0.0]))


def power(name: str, samples: Sequence[Sample]) -> Curve | None:
    """Sum of the accelerators' power over the trial, watts."""
    points = [(s.at_s, sum(g.power_w or 0.0 for g in s.gpus)) for s in samples if s.gpus]
    if len(points) < 2 or not any(watts for _, watts in points):
        return None
    data = np.array(points)
    return Curve(name, data[:, 0], data[:, 1])


def margin_by_position(name: str, scores: Sequence[Score]) -> Curve | None:
    """Mean margin (reference's best logprob - emitted token's) by output position, at most NUM_BINS bins."""
    positions = [np.arange(len(s.margin)) for s in scores if s.margin]
    if not positions:
        return None
    where = np.concatenate(positions)
    margins = np.concatenate([np.asarray(s.margin, dtype=np.float64) for s in scores if s.margin])
    width = max(1, int(np.ceil((where.max() + 1) / NUM_BINS)))
    place = where // width
    sums: Floats = np.bincount(place, weights=margins).astype(np.float64)
    counts = np.bincount(place)
    seen = counts > 0
    centres: Floats = (np.flatnonzero(seen) + np.float64(0.5)) * width
    return Curve(
        name,
        centres,
        np.asarray(sums[seen] / counts[seen], dtype=np.float64),
    )


def frontier(x: Floats, y: Floats) -> list[int]:
    """Indices of the points that no other beats on both axes, by growing x."""
    best = -np.inf
    kept = []
    for index in sorted(range(len(x)), key=lambda i: (-x[i], -y[i])):
        if y[index] > best:
            best = y[index]
            kept.append(index)
    return kept[::-1]
