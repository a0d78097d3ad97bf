"""Where a series changed: change points of its figures, flips of its verdict, and what else was new there.

Change points are Apache Otava's: E-divisive finds the places (Matteson and James, arXiv 1306.4933), Student's
t-test keeps those that are significant (Fleming et al., "Hunter", doi 10.1145/3578244.3583719). Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from harness.errors import MachineError
from harness.history.series import Metric, Point, Series
from harness.reporting.cells import number
from harness.schema import Interval, LogFacts, Scalar

MAX_P_VALUE = 0.001
"""Otava's own. benchmarks/change_points.py: of series of pure noise (3 %) 1 to 4 % had a change point; a loss
of 10 % in the last third was found in 16 % of series of 6 runs, 62 % of 10, 96 % of 15."""
FEWEST = 6
"""Runs below which the t-test can hardly reach that."""
WINDOW = 50
"""Runs that the search looks at together; Otava's own."""
_HASH = 12
_SPEEDS = (("sha256", "cpu_mb_s", "MB/s"), ("memory copy", "memory_gb_s", "GB/s"))
"""Name, field of LoggedLabel, unit."""
_DRIFT = 0.1
"""Relative change of the host's own speed from which on it is told."""


class Change(NamedTuple):
    """The figures before and from one run on differ by more than they do among themselves."""

    at: int
    """Index of the first point of the new level."""
    before: float
    """Mean of the level before, in the metric's unit."""
    after: float
    p_value: float

    @property
    def ratio(self) -> float:
        """after / before - 1."""
        return self.after / self.before - 1.0


class Flip(NamedTuple):
    """A run whose verdict, or its being one at all, is another than the run's before."""

    at: int
    before: str
    after: str


class Step(NamedTuple):
    """Two neighbours whose intervals over restarts do not overlap: what few runs can show."""

    at: int
    before: Interval
    after: Interval


def measured(series: Series, metric: Metric) -> list[tuple[int, Interval]]:
    """(index of the point, value) of the points that have one."""
    values = ((index, point.value(metric)) for index, point in enumerate(series.points))
    return [(index, value) for index, value in values if value is not None]


def changes(series: Series, metric: Metric) -> list[Change]:
    """Change points of one figure; [] of fewer than FEWEST values.

    Raises MachineError where Otava is not installed.
    """
    found = measured(series, metric)
    if len(found) < FEWEST:
        return []
    try:
        from otava.analysis import compute_change_points
    except ImportError as error:
        raise MachineError(
            "Change points need apache-otava, which is not in .venv: `sh scripts/setup.sh history` installs "
            "it."
        ) from error
    points, _ = compute_change_points(
        [value.mean for _, value in found], window_len=WINDOW, max_pvalue=MAX_P_VALUE
    )
    return [
        Change(
            at=found[point.index][0],
            before=float(point.stats.mean_1),
            after=float(point.stats.mean_2),
            p_value=float(point.stats.pvalue),
        )
        for point in points
    ]


def steps(series: Series, metric: Metric) -> list[Step]:
    """Neighbours whose intervals, each over two restarts or more, do not overlap."""
    found = measured(series, metric)
    return [
        Step(index, before, after)
        for (_, before), (index, after) in pairwise(found)
        if min(before.num, after.num) > 1 and (after.low > before.high or after.high < before.low)
    ]


def flips(series: Series) -> list[Flip]:
    """Changes of the verdict from run to run; PASS to INVALID, or to failed, is one too."""
    states = [point.state for point in series.points]
    pairs = enumerate(pairwise(states), start=1)
    return [Flip(at, before, after) for at, (before, after) in pairs if before != after]


def also(series: Series, at: int) -> list[str]:
    """What else was new at a point against the last one before it, in words; the host's own speed too."""
    before, after = series.points[at - 1], series.points[at]
    return [*different(before, after), *_speeds(before, after)]


def different(before: Point, after: Point) -> list[str]:
    """Version, image, settings, commit and machine of two points, where they differ."""
    return [*_ran(before, after), *_machine(before.facts, after.facts)]


def _ran(before: Point, after: Point) -> list[str]:
    old, new = before.label, after.label
    lines = [] if old and new else ["what the engines showed is not kept of both"]
    if old and new:
        lines += _line(f"version of {new.engine}", old.engine_version, new.engine_version)
        lines += _line("image", old.image, new.image)
        lines += _digest(before.facts, after.facts, new.image)
        lines += _line("launcher", old.launcher, new.launcher)
        shown = {**old.claims, **old.shown}, {**new.claims, **new.shown}
        for name in dict.fromkeys((*shown[0], *shown[1])):
            lines += _line(name, *(_word(side.get(name)) for side in shown))
    return lines


def _speeds(before: Point, after: Point) -> list[str]:
    lines = []
    for name, field, unit in _SPEEDS:
        old, new = (getattr(point.label, field, 0.0) for point in (before, after))
        if old and new and abs(new / old - 1.0) >= _DRIFT:
            lines.append(
                f"host's {name}: {number(old)} {unit} then, {number(new)} now ({new / old - 1.0:+.0%})"
            )
    return lines


def _digest(before: LogFacts, after: LogFacts, image: str) -> list[str]:
    old, new = (facts.image_digests.get(image, "") for facts in (before, after))
    return _line(f"digest of {image}", old[-_HASH:], new[-_HASH:]) if old and new else []


def _machine(before: LogFacts, after: LogFacts) -> list[str]:
    lines = _line("commit", before.commit[:_HASH], after.commit[:_HASH])
    lines += _line("host", before.host, after.host)
    if before.machine and after.machine:
        for name in ("driver", "os", "docker"):
            lines += _line(name, getattr(before.machine, name), getattr(after.machine, name))
    return lines


def _line(name: str, before: str, after: str) -> list[str]:
    return [f"{name}: {before or 'none'} then, {after or 'none'} now"] if before != after else []


def _word(value: Scalar) -> str:
    return "not shown" if value is None else str(value)


def worse(change: Change, metric: Metric) -> bool:
    """Whether the new level is the slower one."""
    return (change.ratio > 0) == metric.lower_is_better


def nearest(points: Sequence[Point], run_id: str) -> int:
    """Index of the point of a run; -1 where it has none."""
    return next((index for index, point in enumerate(points) if point.facts.run_id == run_id), -1)
