"""DeepEP's NVLink ("intranode") kernels as the package uccl carries them, behind the seam.

uccl.ep takes addresses instead of tensors, so its wheel fits any torch. It needs libcudart.so.12 and
libibverbs.so.1 to load; within one node no network card is used, and CUDA IPC maps the peers' buffers, not
NVLink multicast.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ep_check import tokens
from ep_check.routing import Routing
from ep_check.seam import Received, UnavailableError
from ep_check.shape import Shape

_NUM_SMS = 20
_DISPATCH_CHUNKS = {2: 24, 4: 6, 8: 6}
_COMBINE_CHUNKS = {2: 10, 4: 9, 8: 4}
"""Tokens sent per chunk by number of ranks, as DeepEP recommends; it has kernels for these sizes only."""
_RECV_CHUNKS = 256
_BF16 = 6
"""uccl's number of the type."""


@dataclass(frozen=True)
class _Trip:
    """What combine needs of a dispatch."""

    num_sent: int
    rank_prefix: torch.Tensor
    recv_channel_prefix: torch.Tensor
    source: torch.Tensor
    send_head: torch.Tensor


class UcclEp:
    """Like DeepEP it counts a rank's experts from 0 and writes -1 for others: made global here.

    It refuses a rank without tokens, so such a rank sends one token that has no expert.
    """

    def __init__(self, shape: Shape, device: torch.device) -> None:
        if shape.world_size not in _DISPATCH_CHUNKS or shape.world_size > shape.gpus_per_node:
            raise UnavailableError("uccl's NVLink kernels take 2, 4 or 8 ranks of one node: choose ranks=2")
        self._ep = _load()
        self._shape, self._device = shape, device
        local = device.index or 0
        self._ep.set_device(local)
        self._ep.register_proxies(local, [_NoProxy()])
        ranks = shape.world_size
        self._to_send = self._ep.Config(_NUM_SMS, _DISPATCH_CHUNKS[ranks], _RECV_CHUNKS, 6, 128)
        self._to_combine = self._ep.Config(_NUM_SMS, _COMBINE_CHUNKS[ranks], _RECV_CHUNKS, 6, 128)
        row = shape.combine_row_bytes
        num_bytes = max(c.get_nvl_buffer_size_hint(row, ranks) for c in (self._to_send, self._to_combine))
        self._buffer = self._ep.Buffer(shape.rank, ranks, num_bytes, 0, False, True, ranks)
        self._buffer.sync(
            _everyone(self._buffer.get_local_device_id(), ranks),
            _everyone(self._buffer.get_local_ipc_handle(), ranks),
            None,
            [None] * ranks,
        )
        self._trip: _Trip | None = None

    def dispatch(self, x: torch.Tensor, routing: Routing) -> Received:
        """Layout, counts, rows; the payload's own tags serve as positions."""
        shape = self._shape
        ids, weights = routing.topk_ids, routing.topk_weights
        if not len(x):
            x = torch.zeros(1, shape.hidden, dtype=x.dtype, device=self._device)
            ids = torch.full((1, shape.top_k), -1, dtype=torch.int64, device=self._device)
            weights = torch.zeros(1, shape.top_k, device=self._device)
        in_rank, rank_prefix, channel_prefix, num_received = self._layout(ids)
        values, scales = tokens.quantize(x) if shape.dispatch_dtype == "fp8" else (x, None)
        rows = max(num_received, 1)  # no address without a row
        got = self._empty(rows, shape.hidden, dtype=values.dtype)
        got_scales = self._empty(rows, shape.hidden // 128, dtype=torch.float32)
        got_ids = self._empty(rows, shape.top_k, dtype=torch.int64)
        got_weights = self._empty(rows, shape.top_k, dtype=torch.float32)
        source, head = self._empty(rows), self._empty(len(x), shape.world_size)
        recv_prefix = torch.empty_like(channel_prefix)
        wide = 0 if scales is None else scales.shape[1]
        self._buffer.intranode_dispatch(
            *(_at(values), len(x), shape.hidden, values.element_size()),
            *(_at(scales), wide, wide, int(wide > 0), _at(ids), shape.top_k, _at(weights), _at(in_rank)),
            *(_at(rank_prefix), _at(channel_prefix), shape.num_experts, 0, False, self._to_send, rows),
            *(_at(got), _at(got_scales) if wide else 0, _at(got_ids), _at(got_weights)),
            *(_at(recv_prefix), _at(source), _at(head), None, False, False, self._stream()),
        )
        self._trip = _Trip(len(routing.topk_ids), rank_prefix, recv_prefix, source, head)
        got = tokens.dequantize(got, got_scales) if wide else got
        first = shape.rank * shape.experts_per_rank
        own = torch.where(got_ids >= 0, got_ids + first, -1)
        return Received(got[:num_received], own[:num_received], got_weights[:num_received], None)

    def combine(self, partial: torch.Tensor) -> torch.Tensor:
        """Sum of the ranks' partial rows, at home."""
        trip = self._trip
        assert trip is not None, "combine() follows dispatch()"
        num = len(trip.send_head)
        combined = self._empty(num, self._shape.hidden, dtype=torch.bfloat16)
        held = partial.contiguous() if len(partial) else combined  # an address, no row is read
        self._buffer.intranode_combine(
            *(_at(held), len(partial), self._shape.hidden, _BF16, 2, 0, 0, 0, 0, _at(trip.source), num),
            *(_at(trip.rank_prefix), _at(trip.recv_channel_prefix), _at(trip.send_head)),
            *(self._to_combine, _at(combined), 0, None, False, False, self._stream()),
        )
        return combined[: trip.num_sent]

    def reset(self) -> None:
        """Every dispatch makes its own positions; the old ones are dropped."""
        self._trip = None

    def close(self) -> None:
        """Release the buffer before the process group goes (collective)."""
        self._buffer.destroy()
        self._ep.unregister_proxy(self._device.index or 0)

    def _layout(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        """(tokens in ranks [T, W], rank prefixes [W, W], channel prefixes [W, C], rows to come)."""
        shape, num = self._shape, len(ids)
        per_rank, per_expert = self._empty(shape.world_size), self._empty(shape.num_experts)
        in_rank = self._empty(num, shape.world_size, dtype=torch.bool)
        self._buffer.get_dispatch_layout(
            *(_at(ids), num, shape.top_k, shape.num_experts, _at(per_rank), 0, _at(per_expert), _at(in_rank)),
            *(None, False, False, self._stream()),
        )
        rank_prefix = self._empty(shape.world_size, shape.world_size)
        channel_prefix = self._empty(shape.world_size, _NUM_SMS // 2)
        num_received, _, _ = self._buffer.intranode_prepare(
            *(_at(per_rank), _at(in_rank), _at(per_expert), num, shape.num_experts),
            *(_at(rank_prefix), _at(channel_prefix), 1, 0, self._to_send, None, False, False, self._stream()),
        )
        return in_rank, rank_prefix, channel_prefix, num_received

    def _empty(self, *sizes: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
        return torch.empty(sizes, dtype=dtype, device=self._device)

    def _stream(self) -> int:
        return int(torch.cuda.current_stream(self._device).cuda_stream)


class _NoProxy:
    """Stands where uccl expects the thread that drives a network card: it has no queue."""

    def use_normal_mode(self) -> bool:
        """For the high-throughput kernels, not the low-latency ones."""
        return True

    def get_d2h_channel_addrs(self) -> list[int]:
        """Addresses of its queues."""
        return []

    def stop(self) -> None:
        """Nothing runs."""


def _at(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else int(tensor.data_ptr())


def _everyone(value: Any, ranks: int) -> list[Any]:
    gathered: list[Any] = [None] * ranks
    dist.all_gather_object(gathered, value)
    return gathered


def _load() -> Any:
    """uccl's extension alone: the package's own __init__ also opens its network libraries."""
    package = importlib.util.find_spec("uccl")
    folders = package.submodule_search_locations if package else None
    files = [Path(folder) / f"ep{suffix}" for folder in folders or () for suffix in EXTENSION_SUFFIXES]
    found = next((file for file in files if file.exists()), None)
    spec = importlib.util.spec_from_file_location("ep", found) if found else None
    if spec is None or spec.loader is None:
        raise UnavailableError("the package uccl is not in this environment: pip install uccl (Python 3.12)")
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError as reason:
        raise UnavailableError(
            f"uccl does not load ({reason}): it needs libcudart.so.12 (package nvidia-cuda-runtime-cu12) and "
            "libibverbs.so.1 on LD_LIBRARY_PATH"
        ) from None
    return module
