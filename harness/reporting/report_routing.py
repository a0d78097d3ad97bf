"""Expert usage of the variants whose routing was logged, as a section of report.html."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.errors import InputError
from harness.moe import balance, routing_log
from harness.moe.routing_log import RoutingLog
from harness.reporting import plots
from harness.reporting.curves import Curve
from harness.reporting.report_html import Section

PATTERNS = ("*.moelog", "moe*.jsonl", "routing*.jsonl")
"""Routing logs in the folder of a server life, <run>/<variant>/r<restart>/."""
_MAX_LAYERS = 4


def section(run: Path, order: Sequence[str]) -> Section:
    """Histograms per variant and the balance over layers; empty when nothing was logged."""
    logs: dict[str, RoutingLog] = {}
    problems: list[str] = []
    for folder in sorted(run.glob("*/r*/")):
        files = [
            str(f) for pattern in PATTERNS for f in sorted(folder.glob(pattern)) if ".rank" not in f.name
        ]
        variant = folder.parent.name
        if not files or variant in logs:
            continue
        try:
            logs[variant] = routing_log.read(files)
        except InputError as error:
            problems.append(error.message)
    drawn = [_histogram(variant, log) for variant, log in logs.items()]
    if logs:
        drawn.append(_balance(logs, order))
    return Section(
        "Expert routing",
        "Share of routed tokens per expert, relative to an even share, for up to four layers; the busiest "
        "expert of each layer. The first restart of each variant that logged its routing.",
        plots=drawn,
        lines=problems,
    )


def _histogram(variant: str, log: RoutingLog) -> str:
    layers = [
        log.layers[i] for i in np.unique(np.linspace(0, len(log.layers) - 1, _MAX_LAYERS).round().astype(int))
    ]
    found = []
    for layer in layers:
        counts = balance.counts(log, layer)
        shares = counts / counts.mean() if counts.sum() else counts.astype(np.float64)
        found.append(Curve(f"layer {layer}", np.arange(counts.size, dtype=np.float64), shares))
    names = [curve.name for curve in found]
    return plots.lines(f"expert usage, {variant}", ("expert", "share / even share"), found, names)


def _balance(logs: dict[str, RoutingLog], order: Sequence[str]) -> str:
    found = [
        Curve(
            variant,
            np.asarray(log.layers, dtype=np.float64),
            np.array([balance.max_over_mean(balance.counts(log, layer)) for layer in log.layers]),
        )
        for variant, log in logs.items()
    ]
    return plots.lines("busiest expert", ("layer", "tokens / mean"), found, order)
