"""Conformance: dispatch -> experts -> combine against the dense oracle, under every routing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from ep_check import oracle, routing, tokens
from ep_check.seam import Backend, Received
from ep_check.shape import Shape

ITERATIONS = 3
"""More than one: a forgotten reset shows only from the second iteration on."""


@dataclass(frozen=True)
class Case:
    """Which seeded inputs: pattern, tokens per rank, iteration (each iteration has its own)."""

    pattern: str
    num_tokens: int
    iteration: int


def run(
    backend: Backend, shape: Shape, device: torch.device, patterns: tuple[str, ...], num_tokens: int
) -> list[dict[str, Any]]:
    """One result per pattern, the same on every rank: passed, worst_error, what failed (collective)."""
    vectors = oracle.expert_vectors(shape).to(device)
    results = [_refuses_duplicates(shape)]
    for pattern in patterns:
        reason = routing.unsuited(pattern, shape) or routing.overflow(pattern, shape, num_tokens)
        if reason:
            results.append({"routing": pattern, "passed": None, "skipped": reason, "failures": []})
            continue
        cases = [Case(pattern, num_tokens, i) for i in range(ITERATIONS)]
        found = [iterate(backend, shape, vectors, case) for case in cases]
        results.append(_merge(pattern, shape, found))
    return results


def iterate(backend: Backend, shape: Shape, vectors: torch.Tensor, case: Case) -> tuple[float, list[str]]:
    """This rank's worst error and failures in one dispatch -> experts -> combine -> reset (collective)."""
    own = _inputs(case, shape, shape.rank, vectors.device)
    received = backend.dispatch(*own)
    failures = compare_received(received, expected(case, shape, vectors.device), shape)
    local = range(shape.rank * shape.experts_per_rank, (shape.rank + 1) * shape.experts_per_rank)
    partial = oracle.apply_experts(received.x, received.routing, vectors, local)
    combined = backend.combine(partial.to(torch.bfloat16))
    backend.reset()
    sent = tokens.as_dispatched(own[0], shape)
    want = oracle.apply_experts(sent, own[1], vectors)
    error = oracle.worst_error(combined, want, oracle.combine_slack(sent, own[1], vectors, shape))
    if error > oracle.TOLERANCE:
        failures.append(f"combined output is off by {error:.3g} (allowed {oracle.TOLERANCE:.3g})")
    where = f"iteration {case.iteration} rank {shape.rank}: "
    return error, [where + failure for failure in failures]


def expected(case: Case, shape: Shape, device: torch.device) -> Received:
    """What this rank must receive, built from the seeds of all ranks, in order of source."""
    parts = []
    for rank in range(shape.world_size):
        x, route = _inputs(case, shape, rank, device)
        here = (route.topk_ids // shape.experts_per_rank == shape.rank).any(dim=1).nonzero()[:, 0]
        source = rank * shape.max_tokens + here
        x = tokens.as_dispatched(x[here], shape)
        parts.append(Received(x, route.topk_ids[here], route.topk_weights[here], source))
    return Received(
        torch.cat([p.x for p in parts]),
        torch.cat([p.topk_ids for p in parts]),
        torch.cat([p.topk_weights for p in parts]),
        torch.cat([p.source for p in parts if p.source is not None]),
    )


def compare_received(got: Received, want: Received, shape: Shape) -> list[str]:
    """Differences of what arrived, in words; rows may come in any order, each exactly once."""
    assert want.source is not None
    if len(got.x) != len(want.x):
        return [f"received {len(got.x)} tokens, {len(want.x)} were sent here"]
    source = got.source
    failures = []
    if shape.dispatch_dtype == "bf16":
        tagged = tokens.origin(got.x, shape)
        if source is not None and not torch.equal(source, tagged):
            failures.append("source positions do not belong to the payloads beside them")
        source = tagged if source is None else source
    if source is None:
        return failures  # FP8 and no positions: only the final result can be judged
    order, wanted = source.argsort(stable=True), want.source.argsort(stable=True)
    if not torch.equal(source[order], want.source[wanted]):
        return [*failures, "a token arrived twice, or one that was not sent here"]
    if not torch.equal(got.x[order], want.x[wanted]):
        failures.append("payloads differ from what was sent")
    ids, true_ids = got.topk_ids[order], want.topk_ids[wanted]
    local = true_ids // shape.experts_per_rank == shape.rank
    if not torch.equal(ids[local], true_ids[local]):
        failures.append("expert ids differ from what was sent")
    elif not torch.equal(got.topk_weights[order][local], want.topk_weights[wanted][local]):
        failures.append("routing weights differ from what was sent")
    return failures


def _inputs(
    case: Case, shape: Shape, rank: int, device: torch.device
) -> tuple[torch.Tensor, routing.Routing]:
    route = routing.build(case.pattern, shape, rank, case.num_tokens, case.iteration)
    x = tokens.build(shape, rank, len(route.topk_ids), case.iteration)
    return x.to(device), routing.Routing(route.topk_ids.to(device), route.topk_weights.to(device))


def _merge(pattern: str, shape: Shape, found: list[tuple[float, list[str]]]) -> dict[str, Any]:
    gathered: list[Any] = [None] * shape.world_size
    dist.all_gather_object(gathered, found)
    every = [result for rank in gathered for result in rank]
    failures = [failure for _, failed in every for failure in failed]
    return {
        "routing": pattern,
        "passed": not failures,
        "worst_error": max(error for error, _ in every),
        "num_failures": len(failures),
        "failures": failures[:8],
    }


def _refuses_duplicates(shape: Shape) -> dict[str, Any]:
    ids = torch.zeros(1, max(shape.top_k, 2), dtype=torch.int64)
    try:
        routing.validate(routing.Routing(ids, torch.ones(ids.shape)), shape)
    except routing.InvalidRoutingError as refusal:
        return {"routing": "duplicate-experts", "passed": True, "refused": str(refusal), "failures": []}
    return {"routing": "duplicate-experts", "passed": False, "failures": ["duplicate experts were accepted"]}
