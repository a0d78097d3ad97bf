"""DeepEP's high-throughput ("normal") kernels behind the seam (NVIDIA; needs the package deep_ep)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from ep_check import tokens
from ep_check.routing import Routing
from ep_check.seam import Received, UnavailableError
from ep_check.shape import Shape


class DeepEpNormal:
    """After dispatch DeepEP counts experts from 0 on each rank and writes -1 for others: made global here."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        self._shape = shape
        self._device = device
        deep_ep = _import()
        group = dist.group.WORLD
        nvl_bytes = rdma_bytes = 0
        for config in (
            deep_ep.Buffer.get_dispatch_config(shape.world_size),
            deep_ep.Buffer.get_combine_config(shape.world_size),
        ):
            row = shape.combine_row_bytes
            nvl_bytes = max(nvl_bytes, config.get_nvl_buffer_size_hint(row, shape.world_size))
            if shape.world_size > shape.gpus_per_node:
                rdma_bytes = max(rdma_bytes, config.get_rdma_buffer_size_hint(row, shape.world_size))
        self._buffer = deep_ep.Buffer(group, nvl_bytes, rdma_bytes)
        self._handle: Any = None

    def dispatch(self, x: torch.Tensor, routing: Routing) -> Received:
        """Layout, then dispatch; positions are not told, the payload's own tags serve instead."""
        shape = self._shape
        per_rank, per_node, per_expert, in_rank, _ = self._buffer.get_dispatch_layout(
            routing.topk_ids, shape.num_experts
        )
        payload: Any = tokens.quantize(x) if shape.dispatch_dtype == "fp8" else x
        rows, ids, weights, _, self._handle, _ = self._buffer.dispatch(
            payload,
            topk_idx=routing.topk_ids,
            topk_weights=routing.topk_weights,
            num_tokens_per_rank=per_rank,
            num_tokens_per_rdma_rank=per_node,
            is_token_in_rank=in_rank,
            num_tokens_per_expert=per_expert,
        )
        rows = tokens.dequantize(*rows) if isinstance(rows, tuple) else rows
        first = shape.rank * shape.experts_per_rank
        return Received(rows, torch.where(ids >= 0, ids.to(torch.int64) + first, -1), weights, None)

    def combine(self, partial: torch.Tensor) -> torch.Tensor:
        """Sum of the ranks' partial rows, at home."""
        combined, _, _ = self._buffer.combine(partial, self._handle)
        return torch.as_tensor(combined)

    def reset(self) -> None:
        """Every dispatch returns a fresh handle; the old one is dropped."""
        self._handle = None

    def close(self) -> None:
        """Release the buffer before the process group goes."""
        del self._buffer


def _import() -> Any:
    try:
        import deep_ep
    except ImportError as reason:
        raise UnavailableError(
            f"the package deep_ep is not in this environment ({reason}): it is built against one CUDA and "
            "one torch; use an engine image that brings it"
        ) from None
    return deep_ep
