"""Plots as inline SVG that follows the page's light or dark colours. Pure, but for matplotlib's own caches.

SVG without script: it works from file://, prints, and cannot run what an engine wrote. Drawn at the width of
a phone, so that its text stays readable there; wide pages show several side by side.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.escape import plain
from harness.numbers.verdicts import decided
from harness.reporting.curves import REGRESSION, Curve, frontier
from harness.schema import Contrast

_INK = "#010203"
"""Stands for the page's text colour; replaced by currentColor."""
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8a8a00", "#7f7f7f")
"""Okabe and Ito's palette: told apart by colour-blind readers, on white and on black."""
_ALARM = "#d02020"
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


def lines(
    title: str, axes: tuple[str, str], curves: Sequence[Curve], order: Sequence[str], until: float = 0.0
) -> str:
    """Curves with their bands as SVG; a name has the colour of its place in `order` in every plot.

    `until`: x runs from 0 to there, the same in all plots of a trial; 0 = as far as the curves.
    """

    def draw(plot: Axes) -> None:
        for curve in curves:
            colour = colour_of(curve.name, order)
            plot.plot(curve.x, curve.y, color=colour, label=short(curve.name))
            if curve.low is not None and curve.high is not None:
                plot.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)
        if until:
            plot.set_xlim(0, until)

    return picture(title, axes, draw)


def points(title: str, axes: tuple[str, str], groups: Sequence[Curve], order: Sequence[str]) -> str:
    """Marked points, joined within a group, and the frontier over all of them dashed."""
    x, y = np.concatenate([g.x for g in groups]), np.concatenate([g.y for g in groups])
    best = frontier(x, y)

    def draw(plot: Axes) -> None:
        plot.plot(x[best], y[best], color=_INK, linestyle="--", linewidth=0.8, alpha=0.6)
        for group in groups:
            colour = colour_of(group.name, order)
            plot.plot(group.x, group.y, color=colour, marker="o", markersize=4, label=short(group.name))
            _band(plot, group, colour)
        plot.set_xlim(0, 1.1 * float(x.max()))
        plot.set_ylim(0, 1.1 * float(y.max()))

    return picture(title, axes, draw)


def _band(plot: Axes, group: Curve, colour: str) -> None:
    """The interval of each point, and between points the area."""
    if group.low is None or group.high is None:
        return
    plot.vlines(group.x, group.low, group.high, color=colour, linewidth=1.4)
    plot.fill_between(group.x, group.low, group.high, color=colour, alpha=0.18, linewidth=0)


def overview(
    title: str, axes: tuple[str, str], groups: Mapping[str, Sequence[Curve]], order: Sequence[str]
) -> str:
    """A point per variant at each scenario, on logarithmic axes; a thin line joins those of a scenario."""

    def draw(plot: Axes) -> None:
        seen: set[str] = set()
        for scenario, found in groups.items():
            x, y = (np.array([getattr(c, axis)[0] for c in found]) for axis in ("x", "y"))
            plot.plot(x, y, color=_INK, linewidth=0.7, alpha=0.5)
            for curve in found:
                label = "" if curve.name in seen else short(curve.name)
                seen.add(curve.name)
                colour = colour_of(curve.name, order)
                plot.plot(curve.x, curve.y, "o", markersize=4.5, color=colour, label=label)
                _band(plot, curve, colour)
            last = int(np.argmax(x))
            plot.annotate(
                plain(scenario, 28),
                (float(x[last]), float(y[last])),
                xytext=(7, -3),
                textcoords="offset points",
                fontsize=8,
            )
        plot.set_xscale("log")
        plot.set_yscale("log")
        plot.margins(0.35, 0.14)
        for axis in (plot.xaxis, plot.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:g}")
            axis.set_minor_formatter(lambda value, _: "")

    return picture(title, axes, draw, (4.4, 3.2))


def forest(title: str, axis: str, contrasts: Sequence[Contrast], order: Sequence[str]) -> str:
    """Ratios with their intervals, a row per scenario; hollow where they are too close to call."""
    scenarios = list(dict.fromkeys(c.scenario for c in contrasts))
    variants = list(dict.fromkeys(c.variant for c in contrasts))

    def draw(plot: Axes) -> None:
        plot.axvline(1.0, color=_INK, linewidth=0.8, alpha=0.6)
        for contrast in contrasts:
            if contrast.ratio is None:
                continue
            shift = 0.5 * (variants.index(contrast.variant) - (len(variants) - 1) / 2) / len(variants)
            row = len(scenarios) - 1 - scenarios.index(contrast.scenario) - shift
            colour = colour_of(contrast.variant, order)
            plot.hlines(row, contrast.ratio.low, contrast.ratio.high, color=colour, linewidth=1.6)
            face = colour if decided(contrast) else "none"
            plot.plot(contrast.ratio.mean, row, "o", markersize=5, color=colour, markerfacecolor=face)
        for variant in variants:
            plot.plot([], [], "o", markersize=5, color=colour_of(variant, order), label=short(variant))
        plot.set_yticks(range(len(scenarios)), [plain(s, 24) for s in reversed(scenarios)])
        plot.set_ylim(-0.6, len(scenarios) - 0.4)
        plot.xaxis.set_major_locator(MaxNLocator(5))

    size = (_SIZE[0], 1.0 + 0.24 * len(scenarios) * max(1.0, 0.6 * len(variants)))
    return picture(title, (axis, ""), draw, size)


def history(title: str, dates: Sequence[str], groups: Sequence[Curve], order: Sequence[str]) -> str:
    """Values with intervals over numbered runs; x of each curve are indices into `dates`.

    A run that lost more than REGRESSION against the one before it is marked.
    """

    def draw(plot: Axes) -> None:
        for group in groups:
            colour = colour_of(group.name, order)
            plot.plot(group.x, group.y, color=colour, marker="o", markersize=3, label=short(group.name))
            if group.low is not None and group.high is not None:
                plot.vlines(group.x, group.low, group.high, color=colour, linewidth=1)
            lost = 1 + np.flatnonzero(group.y[1:] < (1 - REGRESSION) * group.y[:-1])
            plot.plot(group.x[lost], group.y[lost], "v", markersize=9, color=_ALARM, fillstyle="none")
        shown = range(0, len(dates), max(1, len(dates) // 4))
        plot.set_xticks(list(shown), [dates[i][5:10] for i in shown])
        plot.set_ylim(bottom=0)

    return picture(title, ("run", "output tok/s"), draw)


def picture(
    title: str, axes: tuple[str, str], draw: Callable[[Axes], None], size: tuple[float, float] = _SIZE
) -> str:
    """One pair of axes as SVG, its legend below; `size` in inches."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        plot = figure.add_subplot()
        draw(plot)
        plot.set_title(plain(title, 60), loc="left")
        plot.set_xlabel(axes[0])
        plot.set_ylabel(axes[1])
        plot.grid(alpha=0.25, linewidth=0.5)
        handles, labels = plot.get_legend_handles_labels()
        if labels:
            figure.legend(handles, labels, loc="outside lower left", ncols=2, handlelength=1.2)
        return svg(figure, title)


def svg(figure: Figure, title: str) -> str:
    """A figure as an <svg> element with ids of its own, for use inside a page."""
    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        # savefig() draws everything once more before, into nothing.
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;]*;", "", text)
    prefix = "p" + re.sub(r"[^a-z0-9]+", "-", title.lower())
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{prefix}-", text)
    label = plain(title).replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', f'role="img" aria-label="{label}"', text, count=1)


def colour_of(name: str, order: Sequence[str]) -> str:
    """The colour of a name, the same in all plots of a page."""
    return COLOURS[(order.index(name) if name in order else len(order)) % len(COLOURS)]


def short(name: str) -> str:
    """A name that fits a legend; matplotlib leaves out labels that begin with an underscore."""
    return plain(name, 26).lstrip("_") or "-"
