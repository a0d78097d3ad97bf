"""Do certified percentiles hold? Bounds of latencies with known percentiles, in 10,000 simulated trials each.

usage: python -m benchmarks.percentiles [--trials 10000]

Candidates: whole = order statistic of whole rank (LoadGen's early stopping), interpolated = what the harness
does (harness/numbers/tails.py). Then requests that are slow together (batches, a slow minute, restarts),
counted as independent and as the harness counts them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, ndtri

from harness.numbers import tails

Floats = NDArray[np.float64]


class Law(NamedTuple):
    """A distribution of latencies."""

    name: str
    draw: Callable[[np.random.Generator, int], Floats]
    percentile: Callable[[float], float]


LAWS = (
    Law("exponential", lambda rng, n: rng.exponential(size=n), lambda p: float(-np.log1p(-p))),
    Law("lognormal", lambda rng, n: np.exp(rng.normal(size=n)), lambda p: float(np.exp(ndtri(p)))),
    Law("uniform", lambda rng, n: rng.random(n), lambda p: p),
    Law("Pareto, shape 2", lambda rng, n: rng.pareto(2.0, n), lambda p: float((1.0 - p) ** -0.5 - 1.0)),
)
SIZES = ((0.5, 50), (0.9, 64), (0.9, 200), (0.95, 130), (0.95, 400), (0.99, 662), (0.99, 800), (0.99, 1500))


def whole_rank(values: Floats, share: float) -> float:
    """Bound of whole rank: the first order statistic beyond which the percentile lies with 99 %."""
    ranks = np.arange(values.size)
    beyond = int(np.searchsorted(bdtr(ranks, values.size, share), tails.CONFIDENCE))
    return float(np.sort(values)[min(beyond, values.size - 1)])


def independent(trials: int) -> Iterator[str]:
    """A line per percentile and law: how often each bound held."""
    rng = np.random.default_rng(0)
    for share, num in SIZES:
        for law in LAWS:
            truth, held = law.percentile(share), np.zeros(2)
            for _ in range(trials):
                values = law.draw(rng, num)
                bound = tails.bound(values, share)
                held += (whole_rank(values, share) >= truth, bound is not None and bound >= truth)
            whole, ours = held / trials
            yield f"| p{100 * share:g} of {num} | {law.name} | {whole:.2%} | {ours:.2%} |"


def batches(rng: np.random.Generator, size: int, num: int) -> list[Floats]:
    """Three restarts in which `size` requests in a row share most of what makes them slow; variance 1."""
    shared = np.sqrt(0.8) * rng.normal(size=(3, num // size + 1))
    alone = np.sqrt(0.2) * rng.normal(size=(3, num))
    return [np.repeat(s, size)[:num] + a for s, a in zip(shared, alone, strict=True)]


def lives(rng: np.random.Generator, num: int, spread: float) -> list[Floats]:
    """Three restarts, the whole of each shifted by a part of what makes requests slow; variance 1."""
    shifts = spread * rng.normal(size=3)
    return [shift + np.sqrt(1.0 - spread**2) * rng.normal(size=num) for shift in shifts]


def clustered(trials: int) -> Iterator[str]:
    """A line per kind of cluster: as independent requests, and as the harness counts them."""
    rng = np.random.default_rng(1)
    kinds: tuple[tuple[str, Callable[[], list[Floats]]], ...] = (
        ("independent", lambda: batches(rng, 1, 700)),
        ("batches of 8", lambda: batches(rng, 8, 700)),
        ("batches of 32", lambda: batches(rng, 32, 700)),
        ("restarts, 0.1 of the variance", lambda: lives(rng, 700, 0.316)),
        ("restarts, 0.5 of the variance", lambda: lives(rng, 700, 0.707)),
    )
    for name, draw in kinds:
        for share in (0.9, 0.95):
            truth, naive, held, said = float(ndtri(share)), 0, 0, 0
            for _ in range(trials):
                drawn = draw()
                bound = tails.bound(np.concatenate(drawn), share)
                naive += bound is not None and bound >= truth
                found = tails.tail("ttft", drawn, share)
                if found is not None and found.share == share and found.bound is not None:
                    said += 1
                    held += found.bound >= truth
            ours = f"{held / said:.1%} | {said / trials:.0%}" if said else "- | 0%"
            yield f"| p{100 * share:g} | {name} | {naive / trials:.1%} | {ours} |"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=10_000)
    given = parser.parse_args()
    print(f"{given.trials} trials a line\n| requests | law | whole rank | interpolated |\n|---|---|--:|--:|")
    for line in independent(given.trials):
        print(line, flush=True)
    print("\n| percentile | three restarts of 700 | as independent | as counted | certified |")
    print("|---|---|--:|--:|--:|")
    for line in clustered(max(1, given.trials // 10)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
