"""How evenly a routing log loads experts and expert-parallel ranks. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.moe.routing_log import RoutingLog
from harness.schema import LayerBalance

Phase = Literal["all", "prefill", "decode"]
PHASES: tuple[Phase, ...] = ("all", "prefill", "decode")
EP_SIZES = (2, 4, 8, 16, 32)
HOT = 2.0
"""An expert is hot from this multiple of the even share on."""


def of_phase(log: RoutingLog, phase: Phase) -> RoutingLog:
    """The prefill rows, the decode rows, or all."""
    return log if phase == "all" else log.where(log.prefill == (phase == "prefill"))


def counts(log: RoutingLog, layer: int) -> NDArray[np.int64]:
    """[E] routed (token, slot) pairs per expert of a layer."""
    experts = log.experts[log.layer == layer].ravel()
    return np.bincount(experts[experts >= 0], minlength=log.num_experts)


def layer_balance(
    log: RoutingLog, layer: int, phase: Phase, ep_sizes: Sequence[int] = EP_SIZES
) -> LayerBalance:
    """Balance of one layer in one phase; all statistics are 0 or empty where nothing was routed."""
    chosen = of_phase(log, phase)
    per_expert = counts(chosen, layer)
    sizes = [size for size in ep_sizes if size <= log.num_experts and log.num_experts % size == 0]
    tokens = {str(size): rank_tokens(chosen, layer, size) for size in sizes}
    return LayerBalance(
        layer=layer,
        phase=phase,
        num_tokens=int((chosen.layer == layer).sum()),
        counts=tuple(per_expert.tolist()),
        max_over_mean=max_over_mean(per_expert),
        gini=gini(per_expert),
        entropy=entropy(per_expert),
        hot_experts=hot_experts(per_expert),
        unused_experts=int((per_expert == 0).sum()),
        rank_max_over_mean={size: max_over_mean(ranks) for size, ranks in tokens.items()},
        rank_tokens={size: tuple(ranks.tolist()) for size, ranks in tokens.items()},
    )


def all_layers(log: RoutingLog, ep_sizes: Sequence[int] = EP_SIZES) -> tuple[LayerBalance, ...]:
    """Every layer in every phase that has tokens."""
    found = (layer_balance(log, layer, phase, ep_sizes) for layer in log.layers for phase in PHASES)
    return tuple(balance for balance in found if balance.num_tokens)


def max_over_mean(loads: NDArray[np.int64]) -> float:
    """Largest load over mean load: 1 = even; the slowest rank or expert works this much longer."""
    return float(loads.max() / loads.mean()) if loads.sum() else 0.0


def gini(loads: NDArray[np.int64]) -> float:
    """Gini coefficient, 0 = even, (n-1)/n = one takes all: sum (2i - n - 1) x_i / (n sum x), x ascending."""
    if not loads.sum():
        return 0.0
    n = len(loads)
    rank = np.arange(1, n + 1)
    return float(((2 * rank - n - 1) * np.sort(loads)).sum() / (n * loads.sum()))


def entropy(loads: NDArray[np.int64]) -> float:
    """Shannon entropy over log(n): 1 = uniform, 0 = one takes all."""
    if not loads.sum() or len(loads) < 2:
        return 0.0
    share = loads[loads > 0] / loads.sum()
    return float(-(share * np.log(share)).sum() / math.log(len(loads)))


def hot_experts(loads: NDArray[np.int64], factor: float = HOT) -> tuple[int, ...]:
    """Experts with at least `factor` times the even share, hottest first."""
    order = np.argsort(-loads, kind="stable")
    return tuple(int(e) for e in order if loads.sum() and loads[e] >= factor * loads.mean())


def rank_tokens(log: RoutingLog, layer: int, ep_size: int) -> NDArray[np.int64]:
    """[ep_size] tokens each EP rank would receive, each once, experts split evenly in order.

    Raises ValueError when the experts do not split.
    """
    if log.num_experts % ep_size:
        raise ValueError(f"{log.num_experts} experts do not split over {ep_size} ranks")
    experts = log.experts[log.layer == layer]
    visited = np.zeros((len(experts), ep_size), dtype=bool)
    rows, slots = np.nonzero(experts >= 0)
    visited[rows, experts[rows, slots] // (log.num_experts // ep_size)] = True
    return np.asarray(visited.sum(axis=0), dtype=np.int64)


def cooccurrence(log: RoutingLog, layer: int) -> NDArray[np.float64]:
    """[E, E] lift of choosing a and b for one token: P(a, b) / (P(a) P(b)); 1 = independent, diagonal NaN."""
    experts = log.experts[log.layer == layer]
    chosen = np.zeros((len(experts), log.num_experts), dtype=np.float64)
    rows, slots = np.nonzero(experts >= 0)
    chosen[rows, experts[rows, slots]] = 1.0
    single = chosen.mean(axis=0) if len(chosen) else np.zeros(log.num_experts)
    both = chosen.T @ chosen / max(1, len(chosen))
    with np.errstate(divide="ignore", invalid="ignore"):
        lift = both / np.outer(single, single)
    np.fill_diagonal(lift, np.nan)
    return np.asarray(lift)


def drift(log: RoutingLog, layer: int, windows: int = 20) -> NDArray[np.float64]:
    """[windows, E] expert shares over consecutive, equally large groups of tokens, in order of step."""
    chosen = log.where(log.layer == layer)
    order = np.argsort(chosen.step, kind="stable")
    groups = np.array_split(order, max(1, min(windows, len(order))))
    shares = []
    for group in groups:
        experts = chosen.experts[group].ravel()
        per_expert = np.bincount(experts[experts >= 0], minlength=log.num_experts)
        shares.append(per_expert / max(1, per_expert.sum()))
    return np.asarray(shares)


def commonest_set(log: RoutingLog, layer: int) -> tuple[tuple[int, ...], float]:
    """The expert set chosen most often at a layer, and its share of the tokens; ((), 0.0) without tokens."""
    experts = np.sort(log.experts[log.layer == layer], axis=1)
    if not len(experts):
        return (), 0.0
    sets, counts = np.unique(experts, axis=0, return_counts=True)
    return tuple(sets[counts.argmax()].tolist()), float(counts.max() / len(experts))
