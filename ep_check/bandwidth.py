"""Bytes that cross ranks, and the bandwidth they amount to. No torch: tables of integers in, numbers out.

`rows[s][d]` = tokens rank s sends to rank d in one dispatch, each token once per destination rank.
"""

from __future__ import annotations

from typing import TypeAlias

Rows: TypeAlias = list[list[int]]

FORMULA = (
    "GB/s per rank = mean over ranks of (rows to or from other ranks) x row bytes / 1e9 / median over "
    "iterations of (slowest rank's seconds). Row bytes: dispatch = hidden x element size (+ FP8 scales), "
    "combine = hidden x 2. MORI's own bench also counts rows a rank sends to itself: "
    "received_rows_gbps is that convention."
)


def crossing_rows(rows: Rows) -> float:
    """Mean over ranks of rows sent to other ranks."""
    return sum(count for s, to in enumerate(rows) for d, count in enumerate(to) if s != d) / len(rows)


def received_rows(rows: Rows) -> list[int]:
    """Rows each rank receives, its own included."""
    return [sum(to[d] for to in rows) for d in range(len(rows))]


def cross_node_rows(rows: Rows, gpus_per_node: int) -> float:
    """Mean over ranks of rows sent to ranks of other nodes (RDMA)."""
    crossing = sum(
        count
        for s, to in enumerate(rows)
        for d, count in enumerate(to)
        if s // gpus_per_node != d // gpus_per_node
    )
    return crossing / len(rows)


def gbps(num_rows: float, row_bytes: int, seconds: float) -> float:
    """Gigabytes (1e9) per second; 0 when nothing moved."""
    return num_rows * row_bytes / 1e9 / seconds if num_rows and seconds > 0 else 0.0


def rdma_gbps(total_gbps: float, rdma_rows: float, total_rows: float) -> float:
    """RDMA share of a total bandwidth: total x RDMA tokens / total tokens (MORI-EP guide, section 9)."""
    return total_gbps * rdma_rows / total_rows if total_rows else 0.0
