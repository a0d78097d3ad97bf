"""Timings of dispatch, combine and the pair over a ladder of token counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from ep_check import bandwidth, oracle, routing, tokens
from ep_check.seam import Backend
from ep_check.shape import Shape


@dataclass(frozen=True)
class Ladder:
    """Which token counts per rank, under which routing, how often."""

    tokens: tuple[int, ...]
    pattern: str = "uniform"
    warmup: int = 5
    iterations: int = 30


def run(backend: Backend, shape: Shape, device: torch.device, ladder: Ladder) -> list[dict[str, Any]]:
    """One row per token count, the same on every rank (collective)."""
    return [measure(backend, shape, device, ladder, num_tokens) for num_tokens in ladder.tokens]


def measure(
    backend: Backend, shape: Shape, device: torch.device, ladder: Ladder, num_tokens: int
) -> dict[str, Any]:
    """Latencies (us, slowest rank of each iteration) and bandwidths (GB/s per rank) at one token count."""
    too_many = routing.overflow(ladder.pattern, shape, num_tokens, iterations=1)
    if too_many:
        raise ValueError(f"{num_tokens} tokens: {too_many}; give fewer tokens=, or a larger cap")
    route = routing.build(ladder.pattern, shape, shape.rank, num_tokens)
    route = routing.Routing(route.topk_ids.to(device), route.topk_weights.to(device))
    x = torch.randn(len(route.topk_ids), shape.hidden, device=device).to(torch.bfloat16)
    times: dict[str, list[float]] = {"dispatch": [], "combine": [], "pair": []}
    for iteration in range(ladder.warmup + ladder.iterations):
        took = _split(backend, x, route, device) + _pair(backend, x, route, device)
        if iteration >= ladder.warmup:
            for name, seconds in zip(times, took, strict=True):
                times[name].append(seconds)
    rows = _rows(route.topk_ids, shape)
    return {
        "routing": ladder.pattern,
        "tokens": num_tokens,
        "identity_error": _identity_error(backend, x, route, shape),
        **_rates(rows, shape, {name: _slowest(values, shape) for name, values in times.items()}),
    }


def _split(
    backend: Backend, x: torch.Tensor, route: routing.Routing, device: torch.device
) -> tuple[float, float]:
    received, dispatch_s = _timed(lambda: backend.dispatch(x, route), device)
    _, combine_s = _timed(lambda: backend.combine(received.x), device)
    backend.reset()
    return dispatch_s, combine_s


def _pair(backend: Backend, x: torch.Tensor, route: routing.Routing, device: torch.device) -> tuple[float]:
    _, pair_s = _timed(lambda: backend.combine(backend.dispatch(x, route).x), device)
    backend.reset()
    return (pair_s,)


def _timed(call: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    """Result and seconds, started together on all ranks; host waits inside the call are counted."""
    if device.type == "cpu":
        dist.barrier()
        start = time.perf_counter()
        return call(), time.perf_counter() - start
    dist.barrier()
    torch.cuda.synchronize(device)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    result = call()
    end.record()
    torch.cuda.synchronize(device)
    return result, begin.elapsed_time(end) / 1e3


def _slowest(seconds: list[float], shape: Shape) -> list[float]:
    gathered: list[Any] = [None] * shape.world_size
    dist.all_gather_object(gathered, seconds)
    return sorted(max(of_iteration) for of_iteration in zip(*gathered, strict=True))


def _rows(topk_ids: torch.Tensor, shape: Shape) -> bandwidth.Rows:
    wanted = torch.zeros(len(topk_ids), shape.world_size, dtype=torch.bool, device=topk_ids.device)
    wanted.scatter_(1, topk_ids // shape.experts_per_rank, True)
    gathered: list[Any] = [None] * shape.world_size
    dist.all_gather_object(gathered, wanted.sum(dim=0).tolist())
    return gathered


def _rates(rows: bandwidth.Rows, shape: Shape, slowest: dict[str, list[float]]) -> dict[str, Any]:
    crossing, received = bandwidth.crossing_rows(rows), bandwidth.received_rows(rows)
    cross_node = bandwidth.cross_node_rows(rows, shape.gpus_per_node)
    mean_received = sum(received) / len(received)
    out: dict[str, Any] = {
        "crossing_rows": crossing,
        "cross_node_rows": cross_node,
        "received_rows_mean": mean_received,
        "received_rows_max": max(received),
    }
    for name, values in slowest.items():
        median, p99 = values[len(values) // 2], values[min(len(values) - 1, int(len(values) * 0.99))]
        out[f"{name}_us"] = {"median": median * 1e6, "p99": p99 * 1e6, "min": values[0] * 1e6}
        if name != "pair":
            row_bytes = shape.dispatch_row_bytes if name == "dispatch" else shape.combine_row_bytes
            total = bandwidth.gbps(crossing, row_bytes, median)
            out[f"{name}_gbps"] = total
            out[f"{name}_rdma_gbps"] = bandwidth.rdma_gbps(total, cross_node, crossing)
            out[f"{name}_received_rows_gbps"] = bandwidth.gbps(mean_received, row_bytes, median)
    return out


def _identity_error(backend: Backend, x: torch.Tensor, route: routing.Routing, shape: Shape) -> float:
    """With identity experts every token must come home as x times the number of ranks it visited."""
    received = backend.dispatch(x, route)
    combined = backend.combine(received.x)
    backend.reset()
    visited = torch.zeros(len(x), shape.world_size, device=x.device)
    visited.scatter_(1, route.topk_ids // shape.experts_per_rank, 1.0)
    want = tokens.as_dispatched(x, shape).float() * visited.sum(dim=1, keepdim=True)
    # Identity experts: each visited rank sends x home, rounded as its combine rounds.
    slack = oracle.half_step(shape) * want.abs()
    error = oracle.worst_error(combined, want, slack)
    gathered: list[Any] = [None] * shape.world_size
    dist.all_gather_object(gathered, error)
    return float(max(gathered))
