"""What a kernel bench measured."""

from __future__ import annotations

from harness.schema import Noun


class KernelTiming(Noun):
    """One line of a dispatch, combine or expert kernel bench, whoever printed it."""

    source: str
    """mori-jsonl, mori-text, vllm-benchmark-moe, ep-check, reference ..."""
    kernel: str
    """dispatch, combine, pair or moe."""
    tokens: int = 0
    """Per rank; 0 = not stated."""
    world_size: int = 0
    hidden: int = 0
    dtype: str = ""
    latency_us: float | None = None
    gbps: float | None = None
    """1e9 bytes per second and rank, by the source's own convention."""
    rdma_gbps: float | None = None
    note: str = ""
