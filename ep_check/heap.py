"""MORI's symmetric heap: what one operator takes of it, and what it holds. Standard library only.

Sizes: EpDispatchCombineHandle::InitializeShmemBuf and InitializeOrderMapBuf
(src/ops/dispatch_combine/dispatch_combine.cpp); defaults: include/mori/shmem/internal.hpp, "4GB default" and,
with MORI_SHMEM_MODE=vmm_heap, "16GB default"; all at ROCm/mori 624002c.
"""

from __future__ import annotations

from ep_check.mori_config import OURS, EpConfig

DEFAULT_GIB = {"": 4, "static_heap": 4, "vmm_heap": 16}
"""By MORI_SHMEM_MODE; "isolation" has no heap, every buffer is an allocation of its own."""
SCALE_BYTES = 4
"""scale_type_size as ep-check sets it: float32."""
BLOCKWISE_SCALES = 56
"""Scales per token of a blockwise combine: kDefaultFp8BlockwiseScaleDim, MORI_FP8_COMBINE_SCALE_DIM."""


def need(config: EpConfig) -> int:
    """Bytes of symmetric memory one operator allocates on each rank, token-count signals (KiB) left out."""
    recv, send = config.max_recv_tokens, config.max_tokens_per_rank
    row = config.hidden * config.max_token_type_size
    lists = config.top_k * 4
    scales = config.scale_dim * SCALE_BYTES
    blockwise = BLOCKWISE_SCALES * SCALE_BYTES if config.quant_type.endswith("_blockwise") else 0
    small = recv * (3 * lists + 2 * lists + max(scales, blockwise) + scales)
    source_map = config.world_size * send * (config.num_experts // max(1, config.world_size)) * 4
    return _token_buffers(config, row, row + 2 * lists + 4 + scales) + small + source_map


def _token_buffers(config: EpConfig, row: int, transfer: int) -> int:
    """row, transfer = bytes of one token's elements, and of them with ids, weights, origin and scales."""
    recv, send, nodes = config.max_recv_tokens, config.max_tokens_per_rank, config.num_nodes
    outputs = (recv + send) * row
    if config.kernel.startswith("IntraNode"):
        if config.quant_type.endswith("_blockwise") and config.kernel == "IntraNode":
            packed = -(-config.hidden // 2) if config.quant_type == "fp4_blockwise" else row
            transfer = packed + 8 * config.top_k + 4 + BLOCKWISE_SCALES * SCALE_BYTES
        return outputs + recv * transfer
    if config.kernel.startswith("InterNodeV1"):
        return outputs + (recv + (3 * nodes + 1) * send) * transfer
    return outputs + 3 * config.world_size * send * transfer


def suggested_gib(config: EpConfig) -> int:
    """Need plus a quarter, whole GiB, at least MORI's default."""
    return max(DEFAULT_GIB["static_heap"], -(-need(config) * 5 // (4 << 30)))


def parse_size(text: str) -> int:
    """Bytes of "6G", "512M", "2GB" or a plain number. Raises ValueError."""
    digits = text.strip().upper().removesuffix("IB").removesuffix("B")
    unit = {"K": 10, "M": 20, "G": 30, "T": 40}.get(digits[-1:], 0)
    try:
        return int(float(digits[:-1] if unit else digits) * (1 << unit))
    except ValueError:
        raise ValueError(f"MORI_SHMEM_HEAP_SIZE={text!r} is no size: write for example 6G") from None


def too_small(config: EpConfig) -> str:
    """Why the heap does not hold the operator, "" when it does. Raises ValueError for an unreadable size."""
    if config.heap_mode not in (*DEFAULT_GIB, "isolation"):
        return (
            f"MORI_SHMEM_MODE={config.heap_mode} is none MORI knows and becomes static_heap with a warning: "
            "set static_heap, vmm_heap or isolation"
        )
    if config.world_size < 1 or config.heap == OURS or config.heap_mode == "isolation":
        return ""
    default = DEFAULT_GIB[config.heap_mode]
    have, wanted = parse_size(config.heap) if config.heap else default << 30, need(config)
    if have >= wanted:
        return ""
    said = f"MORI_SHMEM_HEAP_SIZE={config.heap}" if config.heap else f"the default {default} GiB heap"
    return (
        f"{said} is smaller than the {wanted / (1 << 30):.1f} GiB that MORI allocates for "
        f"{config.max_recv_tokens} received tokens: set MORI_SHMEM_HEAP_SIZE={suggested_gib(config)}G or "
        "lower the tokens per rank"
    )
