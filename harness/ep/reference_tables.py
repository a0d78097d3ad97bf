"""Published MORI-EP figures to hold measurements against, and where the documents misquote them.

FP8 dispatch, BF16 combine, hidden 7168, 256 experts, top-8; MORI's own convention for GB/s.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.ep.timing import KernelTiming

README = "ROCm/mori README at 624002c"
GUIDE = "MORI-EP user guide, section 9"
STALE = "marked stale there"


def _row(
    where: str, kernel: str, at: tuple[int, int], figures: tuple[float, ...], note: str = ""
) -> KernelTiming:
    """figures: (GB/s,) or (GB/s, RDMA GB/s) at 4096 tokens; (us, GB/s) at 128."""
    world_size, tokens = at
    small = tokens == 128
    return KernelTiming(
        source="reference",
        kernel=kernel,
        tokens=tokens,
        world_size=world_size,
        hidden=7168,
        dtype="fp8" if kernel == "dispatch" else "bf16",
        latency_us=figures[0] if small else None,
        gbps=figures[1] if small else figures[0],
        rdma_gbps=figures[1] if not small and len(figures) > 1 else None,
        note=f"{where}{'; ' + note if note else ''}",
    )


TABLE: tuple[KernelTiming, ...] = (
    _row(f"{README}, MI300X", "dispatch", (8, 4096), (307,)),
    _row(f"{README}, MI300X", "combine", (8, 4096), (330,)),
    _row(f"{README}, MI300X", "dispatch", (8, 128), (35, 134)),
    _row(f"{README}, MI300X", "combine", (8, 128), (47, 204)),
    _row(f"{README}, MI300X", "dispatch", (16, 4096), (171, 52)),
    _row(f"{README}, MI300X", "combine", (16, 4096), (219, 67)),
    _row(f"{README}, MI300X", "dispatch", (16, 128), (76, 96)),
    _row(f"{README}, MI300X", "combine", (16, 128), (122, 121)),
    _row(f"{README}, MI300X", "dispatch", (32, 4096), (103, 57), STALE),
    _row(f"{README}, MI300X", "combine", (32, 4096), (91, 50), STALE),
    _row(f"{README}, MI300X", "dispatch", (32, 128), (157, 48), STALE),
    _row(f"{README}, MI300X", "combine", (32, 128), (280, 55), STALE),
    _row(f"{README}, MI355X", "dispatch", (8, 4096), (345,)),
    _row(f"{README}, MI355X", "combine", (8, 4096), (420,)),
    _row(f"{README}, MI355X", "dispatch", (8, 128), (31, 142)),
    _row(f"{README}, MI355X", "combine", (8, 128), (36, 276)),
    _row(f"{README}, MI355X", "dispatch", (16, 4096), (179, 54)),
    _row(f"{README}, MI355X", "combine", (16, 4096), (234, 71)),
    _row(f"{README}, MI355X", "dispatch", (16, 128), (84, 87)),
    _row(f"{README}, MI355X", "combine", (16, 128), (108, 139)),
    _row(f"{README}, MI355X", "dispatch", (32, 4096), (85, 46)),
    _row(f"{README}, MI355X", "combine", (32, 4096), (110, 61)),
    _row(f"{README}, MI355X", "dispatch", (32, 128), (152, 45)),
    _row(f"{README}, MI355X", "combine", (32, 128), (187, 76)),
    _row(GUIDE, "dispatch", (16, 4096), (208, 63), "older than the README"),
    _row(GUIDE, "combine", (16, 4096), (161, 49), "older than the README"),
)

MISQUOTES = (
    "The architecture document pairs the 128-token latency (35 us, 47 us) with the 4096-token bandwidth "
    "(307, 330 GB/s): at 128 tokens it is 134 and 204 GB/s.",
    "Its '4096 tokens: ~180 us' cannot be at 307 GB/s: uniform top-8 of 256 over 8 ranks touches 5.29 ranks "
    "per token, about 155 MB per rank in FP8, hence about 505 us (dispatch) and 940 us (combine, BF16).",
    "It says the world size must be a power of two; MORI asserts that of the GPUs per node, and that the "
    "world size is a multiple of them.",
    "The notes read 65536 rows after receive as 8192 tokens x top-8; it is the receive limit, "
    "8 ranks x 8192.",
)


def expected_ranks(num_experts: int, top_k: int, world_size: int) -> float:
    """Mean number of ranks a token visits under uniform routing: W (1 - C(E - E/W, K) / C(E, K))."""
    others, missed = num_experts - num_experts // world_size, 1.0
    for k in range(top_k):
        missed *= max(0, others - k) / (num_experts - k)
    return world_size * (1.0 - missed)


def smallest_group(timings: Sequence[KernelTiming]) -> list[KernelTiming]:
    """References of the smallest published group at the kernels and tokens that were measured."""
    measured = {(timing.kernel, timing.tokens) for timing in timings}
    rows = [row for row in TABLE if (row.kernel, row.tokens) in measured]
    return [row for row in rows if row.world_size == min(r.world_size for r in rows)]


def nearest(timing: KernelTiming) -> tuple[KernelTiming, ...]:
    """References of the same kernel at the same tokens and group size."""
    return tuple(
        row
        for row in TABLE
        if (row.kernel, row.tokens, row.world_size) == (timing.kernel, timing.tokens, timing.world_size)
    )
