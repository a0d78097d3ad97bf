"""A routing log as pictures (PNG): histogram per layer, rank balance, co-occurrence, drift, comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")  # no display needed; must precede pyplot
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from harness.moe import balance
from harness.moe.routing_log import RoutingLog
from harness.schema import RoutingDistance

_PREFILL, _DECODE, _EVEN = "#4c78a8", "#f58518", "#555555"
_MAX_PANELS = 12


def histograms(log: RoutingLog, title: str) -> Figure:
    """Expert usage per layer relative to the even share, prefill and decode side by side."""
    layers = _spread(log.layers)
    figure, axes = plt.subplots(
        len(layers), 1, figsize=(10, 2.1 * len(layers) + 0.8), squeeze=False, sharex=True
    )
    experts = np.arange(log.num_experts)
    for axis, layer in zip(axes[:, 0], layers, strict=True):
        for shift, phase, colour in ((-0.2, "prefill", _PREFILL), (0.2, "decode", _DECODE)):
            counts = balance.counts(log.where(log.prefill == (phase == "prefill")), layer)
            if counts.sum():
                label = f"{phase}, {int(counts.sum() / max(1, log.top_k))} tokens"
                axis.bar(experts + shift, counts / counts.mean(), width=0.4, color=colour, label=label)
        axis.axhline(1.0, color=_EVEN, linewidth=0.8, linestyle="--")
        axis.set_ylabel(f"layer {layer}\nshare / even")
    axes[0, 0].legend(fontsize=7, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False)
    axes[-1, 0].set_xlabel("expert")
    return _titled(figure, title)


def rank_balance(log: RoutingLog, title: str, ep_sizes: Sequence[int] = balance.EP_SIZES) -> Figure:
    """Busiest EP rank over the mean, per layer, one line per EP size."""
    figure, axis = plt.subplots(figsize=(8, 3.5))
    for size in ep_sizes:
        if size <= log.num_experts and log.num_experts % size == 0:
            heights = [balance.max_over_mean(balance.rank_tokens(log, layer, size)) for layer in log.layers]
            axis.plot(log.layers, heights, marker="o", label=f"EP{size}")
    axis.axhline(1.0, color=_EVEN, linewidth=0.8, linestyle="--")
    axis.set_xlabel("layer")
    axis.set_ylabel("tokens of busiest rank / mean")
    axis.legend(fontsize=8)
    return _titled(figure, title)


def cooccurrence(log: RoutingLog, layer: int, title: str) -> Figure:
    """log2 of the lift of choosing two experts for one token."""
    with np.errstate(divide="ignore"):
        lift = np.log2(balance.cooccurrence(log, layer))
    lift[np.isneginf(lift)] = np.nan
    figure, axis = plt.subplots(figsize=(6, 5))
    picture = axis.imshow(lift, cmap="RdBu_r", vmin=-2, vmax=2)
    figure.colorbar(picture, label="log2 lift: 0 = independent")
    axis.set_xlabel("expert")
    axis.set_ylabel("expert")
    return _titled(figure, f"{title}: layer {layer}")


def drift(log: RoutingLog, layer: int, title: str) -> Figure:
    """Expert shares over the run, in equal groups of tokens."""
    shares = balance.drift(log, layer) * log.num_experts
    figure, axis = plt.subplots(figsize=(8, 4))
    picture = axis.imshow(shares.T, aspect="auto", cmap="viridis", vmin=0)
    figure.colorbar(picture, label="share / even")
    axis.set_xlabel("time (equal groups of tokens)")
    axis.set_ylabel("expert")
    return _titled(figure, f"{title}: layer {layer}")


def comparison(
    a: RoutingLog, b: RoutingLog, distances: Sequence[RoutingDistance], names: tuple[str, str]
) -> Figure:
    """Two logs' expert shares per layer, with their Jensen-Shannon distance."""
    layers = _spread(tuple(d.layer for d in distances))
    shown = {d.layer: d for d in distances}
    figure, axes = plt.subplots(
        len(layers), 1, figsize=(10, 2.2 * len(layers) + 0.8), squeeze=False, sharex=True
    )
    experts = np.arange(a.num_experts)
    for axis, layer in zip(axes[:, 0], layers, strict=True):
        for shift, log, name, colour in ((-0.2, a, names[0], _PREFILL), (0.2, b, names[1], _DECODE)):
            counts = balance.counts(log, layer)
            axis.bar(experts + shift, counts / max(1.0, counts.mean()), width=0.4, color=colour, label=name)
        found = shown[layer]
        words = (
            f"JS distance {found.distance:.3f} [{found.low:.3f}, {found.high:.3f}], floor {found.floor:.3f}"
        )
        axis.set_title(f"layer {layer}: {words}", fontsize=9)
        axis.axhline(1.0, color=_EVEN, linewidth=0.8, linestyle="--")
        axis.set_ylabel("share / even")
    axes[0, 0].legend(fontsize=8)
    axes[-1, 0].set_xlabel("expert")
    return _titled(figure, f"{names[0]} against {names[1]}")


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG without a date in it, and forget the figure."""
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    return path


def _spread(layers: tuple[int, ...]) -> tuple[int, ...]:
    """At most _MAX_PANELS layers, evenly spread, first and last included."""
    if len(layers) <= _MAX_PANELS:
        return layers
    picked = np.linspace(0, len(layers) - 1, _MAX_PANELS).round().astype(int)
    return tuple(layers[index] for index in picked)


def _titled(figure: Figure, title: str) -> Figure:
    figure.suptitle(title)
    figure.tight_layout()
    return figure
