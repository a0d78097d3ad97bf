"""How far two routing logs lie apart, layer by layer. Pure, seeded.

Jensen-Shannon distance: sqrt of H((p+q)/2) - (H(p)+H(q))/2, base-2 logs; 0 = same, 1 = disjoint.
Tokens of one request are alike, so the bootstrap draws whole requests. Drawing again only adds distance, so
the interval is moved down by the draws' mean excess over the estimate. `floor` is the distance between random
halves of the pooled requests, split in the logs' own proportion: what two logs of one source would show.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.errors import InputError
from harness.moe.balance import Phase, of_phase
from harness.moe.routing_log import RoutingLog
from harness.schema import RoutingDistance

DRAWS = 500
Shares = NDArray[np.float64]


def compare(a: RoutingLog, b: RoutingLog, phase: Phase = "all", seed: int = 0) -> tuple[RoutingDistance, ...]:
    """Distance of every layer both logs have. Raises InputError when they cannot be compared."""
    if a.num_experts != b.num_experts:
        raise InputError(
            f"{a.source} has {a.num_experts} experts, {b.source} {b.num_experts}: not one model."
        )
    layers = sorted(set(a.layers) & set(b.layers))
    if not layers:
        raise InputError(
            f"{a.source} has layers {a.layers}, {b.source} {b.layers}: no layer is in both logs."
        )
    a, b = of_phase(a, phase), of_phase(b, phase)
    return tuple(layer_distance(a, b, layer, phase, seed) for layer in layers)


def layer_distance(a: RoutingLog, b: RoutingLog, layer: int, phase: str, seed: int) -> RoutingDistance:
    """Distance with a 95 % bootstrap interval over requests, and the sampling floor."""
    per_a, per_b = by_request(a, layer), by_request(b, layer)
    random = np.random.default_rng([seed, layer])
    drawn = [distance(_resample(per_a, random), _resample(per_b, random)) for _ in range(DRAWS)]
    pooled = np.concatenate([per_a, per_b])
    floor = [_split_distance(pooled, len(per_a), random) for _ in range(DRAWS)]
    between = distance(per_a.sum(axis=0), per_b.sum(axis=0))
    low, high = np.percentile(drawn, [2.5, 97.5]) - (np.mean(drawn) - between)
    return RoutingDistance(
        layer=layer,
        phase=phase,
        distance=between,
        low=max(0.0, float(low)),
        high=min(1.0, float(high)),
        floor=float(np.percentile(floor, 95)),
        num_requests=(len(per_a), len(per_b)),
    )


def by_request(log: RoutingLog, layer: int) -> NDArray[np.int64]:
    """[requests, E] routed pairs per request and expert; requests without tokens are left out."""
    here = log.layer == layer
    experts, request = log.experts[here], log.request[here]
    table = np.zeros((len(log.request_ids), log.num_experts), dtype=np.int64)
    rows, slots = np.nonzero(experts >= 0)
    np.add.at(table, (request[rows], experts[rows, slots]), 1)
    return np.asarray(table[table.sum(axis=1) > 0])


def distance(p: NDArray[np.int64], q: NDArray[np.int64]) -> float:
    """Jensen-Shannon distance of two count vectors; 1 when one of them is empty."""
    if not p.sum() or not q.sum():
        return 1.0
    share_p, share_q = p / p.sum(), q / q.sum()
    mixed = _entropy((share_p + share_q) / 2)
    return float(np.sqrt(max(0.0, mixed - (_entropy(share_p) + _entropy(share_q)) / 2)))


def _entropy(share: Shares) -> float:
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


def _resample(table: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    if not len(table):
        return np.asarray(table.sum(axis=0))
    picked = np.bincount(random.integers(0, len(table), len(table)), minlength=len(table))
    return np.asarray(picked @ table)


def _split_distance(pooled: NDArray[np.int64], first: int, random: np.random.Generator) -> float:
    order = random.permutation(len(pooled))
    return distance(pooled[order[:first]].sum(axis=0), pooled[order[first:]].sum(axis=0))
