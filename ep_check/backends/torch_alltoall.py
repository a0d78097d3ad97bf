"""Dispatch/combine from torch's all_to_all_single alone: gloo on CPUs, NCCL or RCCL on GPUs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist

from ep_check import tokens
from ep_check.routing import Routing
from ep_check.seam import Received
from ep_check.shape import Shape


@dataclass(frozen=True)
class _Trip:
    """Who sent what in one dispatch; combine walks it backwards."""

    num_tokens: int
    sent_token: torch.Tensor
    """[S] token number of each sent row, grouped by destination rank."""
    send_counts: list[int]
    recv_counts: list[int]


class TorchAllToAll:
    """A token is sent once to each rank that owns any of its experts (deduplicated per destination)."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        self._shape = shape
        self._device = device
        self._trip: _Trip | None = None

    def dispatch(self, x: torch.Tensor, routing: Routing) -> Received:
        """Exchange counts, then payload rows, then ids, weights and positions."""
        trip = self._plan(routing.topk_ids)
        self._trip = trip
        rows = x[trip.sent_token]
        meta = self._exchange(self._pack_meta(routing, trip.sent_token), trip.send_counts, trip.recv_counts)
        top_k = self._shape.top_k
        return Received(
            x=self._send_rows(rows, trip),
            topk_ids=meta[:, :top_k].to(torch.int64),
            topk_weights=meta[:, top_k : 2 * top_k].contiguous().view(torch.float32),
            source=meta[:, -1].to(torch.int64),
        )

    def combine(self, partial: torch.Tensor) -> torch.Tensor:
        """Return each row to its sender; sums are kept in float32 and rounded once."""
        trip = self._trip
        if trip is None:
            raise RuntimeError("combine() without dispatch(): call dispatch() first in every iteration")
        home = self._exchange(partial, trip.recv_counts, trip.send_counts)
        out = torch.zeros(trip.num_tokens, partial.shape[1], dtype=torch.float32, device=self._device)
        start = 0
        for count in trip.send_counts:  # per destination, so that no token occurs twice in one add
            rows = slice(start, start + count)
            out.index_add_(0, trip.sent_token[rows], home[rows].float())
            start += count
        return out.to(partial.dtype)

    def reset(self) -> None:
        """Forget the last dispatch."""
        self._trip = None

    def close(self) -> None:
        """Nothing is held."""

    def _plan(self, topk_ids: torch.Tensor) -> _Trip:
        shape = self._shape
        destination = topk_ids // shape.experts_per_rank
        wanted = torch.zeros(len(topk_ids), shape.world_size, dtype=torch.bool, device=self._device)
        wanted.scatter_(1, destination, True)
        send = wanted.sum(dim=0)
        recv = torch.empty_like(send)
        dist.all_to_all_single(recv, send)
        return _Trip(len(topk_ids), wanted.t().nonzero()[:, 1], send.tolist(), recv.tolist())

    def _pack_meta(self, routing: Routing, sent_token: torch.Tensor) -> torch.Tensor:
        weights = routing.topk_weights[sent_token].contiguous().view(torch.int32)
        source = (self._shape.rank * self._shape.max_tokens + sent_token).to(torch.int32)
        return torch.cat([routing.topk_ids[sent_token].to(torch.int32), weights, source[:, None]], dim=1)

    def _send_rows(self, rows: torch.Tensor, trip: _Trip) -> torch.Tensor:
        if self._shape.dispatch_dtype != "fp8":
            return self._exchange(rows, trip.send_counts, trip.recv_counts)
        values, scales = tokens.quantize(rows)
        packed = torch.cat([values.view(torch.uint8), scales.contiguous().view(torch.uint8)], dim=1)
        arrived = self._exchange(packed, trip.send_counts, trip.recv_counts)
        hidden = self._shape.hidden
        return tokens.dequantize(
            arrived[:, :hidden].contiguous().view(torch.float8_e4m3fn),
            arrived[:, hidden:].contiguous().view(torch.float32),
        )

    def _exchange(self, rows: torch.Tensor, send: list[int], recv: list[int]) -> torch.Tensor:
        out = torch.empty((sum(recv), *rows.shape[1:]), dtype=rows.dtype, device=rows.device)
        dist.all_to_all_single(out, rows.contiguous(), output_split_sizes=recv, input_split_sizes=send)
        return out
