"""A series as plots: values with intervals by run, change points, runs that did not PASS. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from harness.history import changes
from harness.history.series import METRICS, Metric, Series
from harness.reporting import plots

_ALARM, _DOUBT = "#d02020", "#c08000"
_ALARMING = ("FAIL", "INVALID", "failed")
_TICKS = 4


def figures(series: Series, order: Sequence[str]) -> list[str]:
    """One plot per figure that has two values or more, as SVG."""
    return [_figure(series, metric, order) for metric in METRICS if len(changes.measured(series, metric)) > 1]


def _figure(series: Series, metric: Metric, order: Sequence[str]) -> str:
    found = changes.measured(series, metric)
    dates = [point.facts.date for point in series.points]

    def draw(plot: Axes) -> None:
        colour = plots.colour_of(series.key.variant, order)
        at = [index for index, _ in found]
        plot.plot(at, [value.mean for _, value in found], color=colour, marker="o", markersize=3)
        plot.vlines(at, [v.low for _, v in found], [v.high for _, v in found], color=colour, linewidth=1)
        for change in changes.changes(series, metric):
            alarm = changes.worse(change, metric)
            plot.axvline(change.at - 0.5, color=_ALARM if alarm else colour, linestyle="--", linewidth=1)
            plot.annotate(f"{change.ratio:+.0%}", (change.at - 0.4, 0.02), xycoords=("data", "axes fraction"))
        for index, point in enumerate(series.points):
            if point.state not in ("PASS", "not verified"):
                mark = _ALARM if point.state in _ALARMING else _DOUBT
                plot.plot(index, 0, "x", color=mark, markersize=6, clip_on=False)
        shown = range(0, len(dates), max(1, len(dates) // _TICKS))
        plot.set_xticks(list(shown), [dates[i][5:10] for i in shown])
        plot.set_ylim(bottom=0)

    return plots.picture(f"{metric.title}, {series.key.workload}", ("run", metric.title), draw)
