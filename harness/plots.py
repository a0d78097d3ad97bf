"""Plots as inline SVG that follows the page's light or dark colours. Pure, but for matplotlib's own caches.

SVG without script: it works from file://, prints, and cannot run what an engine wrote. Drawn at the width of
a phone, so that its text stays readable there; wide pages show several side by side.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.curves import Curve
from harness.escape import plain

_INK = "#010203"
"""Stands for the page's text colour; replaced by currentColor."""
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8a8a00", "#7f7f7f")
"""Okabe and Ito's palette: told apart by colour-blind readers, on white and on black."""
_SIZE = (3.5, 2.5)
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.4,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 7.5,
}


def lines(title: str, axes: tuple[str, str], curves: Sequence[Curve], *, log_x: bool = False) -> str:
    """Curves with their bands, one colour each, as SVG."""

    def draw(plot: Axes) -> None:
        for index, curve in enumerate(curves):
            colour = COLOURS[index % len(COLOURS)]
            plot.plot(curve.x, curve.y, color=colour, label=short(curve.name))
            if curve.low is not None and curve.high is not None:
                plot.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
        if log_x:
            plot.set_xscale("log")

    return picture(title, axes, draw, legend=len(curves) > 1 or bool(curves and curves[0].name))


def points(
    title: str, axes: tuple[str, str], groups: Sequence[Curve], best: Sequence[tuple[float, float]]
) -> str:
    """Marked points, joined within a group, and the frontier over all of them dashed."""

    def draw(plot: Axes) -> None:
        if len(best) > 1:
            plot.plot(*zip(*best, strict=True), color=_INK, linestyle="--", linewidth=0.8, alpha=0.6)
        for index, group in enumerate(groups):
            colour = COLOURS[index % len(COLOURS)]
            plot.plot(group.x, group.y, color=colour, marker="o", markersize=4, label=short(group.name))
        plot.set_xlim(0, 1.1 * max(float(group.x.max()) for group in groups))
        plot.set_ylim(0, 1.1 * max(float(group.y.max()) for group in groups))

    return picture(title, axes, draw, legend=True)


def history(title: str, dates: Sequence[str], groups: Sequence[Curve]) -> str:
    """Values with intervals over numbered runs; x of each curve are indices into `dates`."""

    def draw(plot: Axes) -> None:
        for index, group in enumerate(groups):
            colour = COLOURS[index % len(COLOURS)]
            plot.plot(group.x, group.y, color=colour, marker="o", markersize=3, label=short(group.name))
            if group.low is not None and group.high is not None:
                plot.vlines(group.x, group.low, group.high, color=colour, linewidth=1)
        shown = range(0, len(dates), max(1, len(dates) // 4))
        plot.set_xticks(list(shown), [dates[i][5:10] for i in shown])
        plot.set_ylim(bottom=0)

    return picture(title, ("run", "output tok/s"), draw, legend=True)


def picture(title: str, axes: tuple[str, str], draw: Callable[[Axes], None], *, legend: bool) -> str:
    """One pair of axes as SVG, its legend below."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        plot = figure.add_subplot()
        draw(plot)
        plot.set_title(plain(title, 60), loc="left")
        plot.set_xlabel(axes[0])
        plot.set_ylabel(axes[1])
        plot.grid(alpha=0.25, linewidth=0.5)
        handles, labels = plot.get_legend_handles_labels()
        if legend and labels:
            figure.legend(handles, labels, loc="outside lower left", ncols=2, handlelength=1.2)
        return svg(figure, title)


def svg(figure: Figure, title: str) -> str:
    """A figure as an <svg> element with ids of its own, for use inside a page."""
    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;]*;", "", text)
    prefix = "p" + re.sub(r"[^a-z0-9]+", "-", title.lower())
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{prefix}-", text)
    label = plain(title).replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', f'role="img" aria-label="{label}"', text, count=1)


def short(name: str) -> str:
    """A name that fits a legend; matplotlib leaves out labels that begin with an underscore."""
    return plain(name, 26).lstrip("_") or "-"
