"""What `just history` finds, and what it finds in noise: python -m benchmarks.change_points

Series of runs with 3 % noise: how many of pure noise have a change point, and how many of those whose last
third is slower have one within a run of the right place.
"""

from __future__ import annotations

import numpy as np
from otava.analysis import compute_change_points

from harness.history.changes import MAX_P_VALUE, WINDOW

NOISE = 0.03
RUNS, LOSSES = (6, 8, 10, 15, 20, 30), (0.05, 0.1, 0.2)
SERIES, SEED = 400, 1


def places(rates: np.ndarray) -> list[int]:
    """Indices at which a new level begins."""
    found, _ = compute_change_points([float(r) for r in rates], window_len=WINDOW, max_pvalue=MAX_P_VALUE)
    return [point.index for point in found]


def share(num: int, loss: float, rng: np.random.Generator) -> float:
    """Of SERIES series of `num` runs, those with a change point, at the right place where there is a loss."""
    begin = num - num // 3
    hits = 0
    for _ in range(SERIES):
        rates = 100 * (1 + NOISE * rng.standard_normal(num))
        rates[begin:] *= 1 - loss
        found = places(rates)
        hits += any(abs(place - begin) <= 1 for place in found) if loss else bool(found)
    return hits / SERIES


def main() -> None:
    """A line per number of runs."""
    rng = np.random.default_rng(SEED)
    print("| runs | noise alone |", " | ".join(f"last third {loss:.0%} slower" for loss in LOSSES), "|")
    print("|--:|--:|", "--:|" * len(LOSSES))
    for num in RUNS:
        print(f"| {num} |", " | ".join(f"{share(num, loss, rng):.1%}" for loss in (0.0, *LOSSES)), "|")


if __name__ == "__main__":
    main()
