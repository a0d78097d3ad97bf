"""A screening design: few points in which every value, and every pair of values, appears evenly. Pure.

Plackett and Burman's designs (1946) do that for settings of two values; settings here have two to six, so a
nearly orthogonal array is found by exchanging entries within columns, which keeps every column balanced.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Levels = NDArray[np.int64]
_SWEEPS = 30
_SAME_ROW = 4.0
"""Price of two equal points, against that of one uneven pair."""


def screening(sizes: Sequence[int], num: int, seed: int) -> Levels:
    """[num, setting] numbers of values; `sizes` says how many each setting has. Seeded."""
    rng = np.random.default_rng(seed)
    columns = [rng.permutation(np.resize(rng.permutation(size), num)) for size in sizes]
    table = np.stack(columns, axis=1) if columns else np.zeros((num, 0), dtype=np.int64)
    best = unevenness(table, sizes)
    for _ in range(_SWEEPS):
        before = best
        for column in range(len(sizes)):
            for one in range(num):
                for other in range(one + 1, num):
                    if table[one, column] == table[other, column]:
                        continue
                    _exchange(table, column, one, other)
                    now = unevenness(table, sizes)
                    if now < best - 1e-9:
                        best = now
                    else:
                        _exchange(table, column, one, other)
        if best >= before:
            break
    return table


def unevenness(table: Levels, sizes: Sequence[int]) -> float:
    """0 = every pair of values of every two settings appears equally often, and no point twice."""
    num, total = table.shape[0], 0.0
    for one in range(len(sizes)):
        for other in range(one + 1, len(sizes)):
            pairs = np.bincount(
                table[:, one] * sizes[other] + table[:, other], minlength=sizes[one] * sizes[other]
            )
            total += float(np.mean((pairs - num / pairs.size) ** 2))
    repeated: int = num - len({tuple(row) for row in table.tolist()})
    return total + _SAME_ROW * repeated


def _exchange(table: Levels, column: int, one: int, other: int) -> None:
    table[one, column], table[other, column] = table[other, column], table[one, column]
