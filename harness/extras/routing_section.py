"""Expert usage of the variants whose routing was logged, as a section of report.html."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from harness import store
from harness.errors import HarnessError
from harness.moe import command, routing_log, timed
from harness.reporting import plots
from harness.reporting.report_html import Section
from harness.schema import LayerBalance, RoutingReport

PATTERNS = ("*.moelog", "moe*.jsonl", "routing*.jsonl")
"""Routing logs in the folder of a server life, <run>/<variant>/r<restart>/."""
_MAX_LAYERS = 4
_EP_SIZE = 8
HEADERS = ("variant", "layer", "phase", "tokens", "busiest expert / mean", "Gini", "entropy / uniform",
           "busiest EP rank / mean", "hot experts")  # fmt: skip


def section(run: Path, order: Sequence[str]) -> Section:
    """Histograms per variant and layer, tokens per EP rank, the balance as a table; empty without logs."""
    found: dict[str, RoutingReport] = {}
    problems: list[str] = []
    for folder in sorted(run.glob("*/r*/")):
        variant = folder.parent.name
        if variant in found:
            continue
        try:
            report = _report(folder)
        except HarnessError as error:
            problems.append(f"{variant}: {error.message}".replace(f"{folder}/", ""))
            continue
        if report:
            found[variant] = report
    return Section(
        "Expert routing",
        "Tokens per expert relative to an even share, prefill and decode, for up to four layers; tokens that "
        "each expert-parallel rank would receive, each token once per rank. The first restart of each "
        "variant that logged its routing; timed requests only.",
        plots=[plot for variant in _ordered(found, order) for plot in _pictures(variant, found[variant])],
        headers=HEADERS,
        rows=[_row(variant, b) for variant in _ordered(found, order) for b in _shown(found[variant])],
        lines=problems + [f"{v}: {note}" for v, report in found.items() for note in report.notes],
    )


def _report(folder: Path) -> RoutingReport | None:
    """What was computed when the visit ended; from the log itself where that is missing."""
    kept = folder / "moe" / "moe.json"
    if kept.exists():
        return store.read(kept, RoutingReport)
    logs = [str(f) for pattern in PATTERNS for f in sorted(folder.glob(pattern)) if ".rank" not in f.name]
    return command.build(timed.only(routing_log.read(logs), folder)) if logs else None


def _ordered(found: dict[str, RoutingReport], order: Sequence[str]) -> list[str]:
    return sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name))


def _shown(report: RoutingReport) -> Iterator[LayerBalance]:
    """Prefill and decode of at most four layers, evenly spread, first and last included."""
    layers = sorted({b.layer for b in report.layers})
    picked = np.linspace(0, len(layers) - 1, _MAX_LAYERS).round().astype(int).tolist() if layers else []
    chosen = {layers[i] for i in picked}
    yield from (b for b in report.layers if b.layer in chosen and b.phase != "all")


def _pictures(variant: str, report: RoutingReport) -> Iterator[str]:
    shown = list(_shown(report))
    for layer in dict.fromkeys(b.layer for b in shown):
        phases = [b for b in shown if b.layer == layer]
        place = f"{variant}, layer {layer}"
        loads = {b.phase: np.asarray(b.counts, dtype=np.float64) for b in phases}
        yield _bars(f"expert usage, {place}", ("expert", "share / even share"), loads)
        size = max((int(s) for b in phases for s in b.rank_tokens if int(s) <= _EP_SIZE), default=0)
        if size:
            ranks = {b.phase: np.asarray(b.rank_tokens[str(size)], dtype=np.float64) for b in phases}
            yield _bars(f"{size} EP ranks, {place}", ("EP rank", "tokens / mean"), ranks)


def _bars(title: str, axes: tuple[str, str], loads: dict[str, np.typing.NDArray[np.float64]]) -> str:
    """Loads of each phase relative to their mean, side by side; dashed: an even load."""
    width = 0.8 / max(1, len(loads))

    def draw(plot: Axes) -> None:
        for number, (phase, load) in enumerate(loads.items()):
            x = np.arange(load.size) + (number - (len(loads) - 1) / 2) * width
            plot.bar(x, load / load.mean(), width=width, color=plots.COLOURS[number], label=phase)
        plot.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        plot.axhline(1.0, color=plots.COLOURS[-1], linestyle="--", linewidth=0.8)

    return plots.picture(title, axes, draw)


def _row(variant: str, item: LayerBalance) -> tuple[str, ...]:
    ranks = " ".join(f"EP{size} {ratio:.2f}" for size, ratio in item.rank_max_over_mean.items())
    hot = ", ".join(map(str, item.hot_experts[:8])) or "-"
    return (
        variant, str(item.layer), item.phase, str(item.num_tokens), f"{item.max_over_mean:.2f}",
        f"{item.gini:.3f}", f"{item.entropy:.3f}", ranks or "-", hot,
    )  # fmt: skip
