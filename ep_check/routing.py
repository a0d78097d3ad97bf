"""Seeded routings: which experts each token of a rank goes to, with which weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ep_check.shape import Shape

ZIPF_EXPONENT = 1.2


@dataclass(frozen=True)
class Routing:
    """topk_ids [T, K] int64 global expert ids; topk_weights [T, K] float32, each row sums to 1."""

    topk_ids: torch.Tensor
    topk_weights: torch.Tensor


class InvalidRoutingError(ValueError):
    """A routing no backend may be given."""


def build(pattern: str, shape: Shape, rank: int, num_tokens: int, iteration: int = 0) -> Routing:
    """Routing of `rank` under a pattern of PATTERNS; the same on every rank that asks (CPU tensors).

    Raises KeyError for an unknown pattern, InvalidRoutingError where the shape cannot hold it.
    """
    generator = seeded(shape.seed, iteration, rank)
    scores = PATTERNS[pattern](shape, rank)
    num_tokens = tokens_of(pattern, shape, rank, num_tokens)
    # Gumbel noise + top-k draws without replacement in proportion to exp(scores).
    uniform = torch.rand(num_tokens, shape.num_experts, generator=generator).clamp_min_(1e-9)
    topk_ids = (scores - torch.log(-torch.log(uniform))).topk(shape.top_k, dim=1).indices
    logits = torch.randn(num_tokens, shape.top_k, generator=generator)
    routing = Routing(topk_ids, torch.softmax(logits, dim=1))
    validate(routing, shape)
    return routing


def tokens_of(pattern: str, shape: Shape, rank: int, num_tokens: int) -> int:
    """Tokens this rank owns under a pattern."""
    if pattern == "one-token":
        return int(rank == 0)
    if pattern == "empty-rank" and rank == shape.world_size - 1:
        return 0
    return num_tokens


def unsuited(pattern: str, shape: Shape) -> str:
    """Why a pattern cannot exist in this shape, "" when it can."""
    if pattern == "empty-rank" and shape.num_experts - shape.experts_per_rank < shape.top_k:
        return "without the last rank's experts too few are left for top-k"
    if pattern == "local" and shape.experts_per_rank < shape.top_k:
        return "a rank owns fewer than top-k experts"
    return ""


def overflow(pattern: str, shape: Shape, num_tokens: int, iterations: int = 3) -> str:
    """Why a pattern sends some rank more rows than it may receive, "" when none (or no limit is set)."""
    if not shape.receive_limit:
        return ""
    for iteration in range(iterations):
        routes = [build(pattern, shape, rank, num_tokens, iteration) for rank in range(shape.world_size)]
        for rank in range(shape.world_size):
            rows = sum(int((r.topk_ids // shape.experts_per_rank == rank).any(dim=1).sum()) for r in routes)
            if rows > shape.receive_limit:
                return (
                    f"rank {rank} would receive {rows} tokens where max_total_recv_tokens leaves "
                    f"{shape.receive_limit}: MORI's kernel asserts beyond it"
                )
    return ""


def validate(routing: Routing, shape: Shape) -> None:
    """Raise InvalidRoutingError for an expert named twice by a token, an unknown id or a bad weight."""
    ids, weights = routing.topk_ids, routing.topk_weights
    if ids.numel() == 0:
        return
    if int(ids.min()) < 0 or int(ids.max()) >= shape.num_experts:
        raise InvalidRoutingError(f"expert ids must lie in 0..{shape.num_experts - 1}")
    in_order = ids.sort(dim=1).values
    twice = (in_order[:, 1:] == in_order[:, :-1]).any(dim=1)
    if bool(twice.any()):
        token = int(twice.nonzero()[0])
        raise InvalidRoutingError(f"token {token} names one expert twice: {ids[token].tolist()}")
    if not bool(torch.isfinite(weights).all()):
        raise InvalidRoutingError("a routing weight is not finite")


def seeded(*numbers: int) -> torch.Generator:
    """A CPU generator whose stream depends on all the numbers."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % (1 << 62)
    return torch.Generator().manual_seed(seed)


def _uniform(shape: Shape, rank: int) -> torch.Tensor:
    return torch.zeros(shape.num_experts)


def _zipf(shape: Shape, rank: int) -> torch.Tensor:
    return -ZIPF_EXPONENT * torch.log(torch.arange(1, shape.num_experts + 1, dtype=torch.float32))


def _only(allowed: torch.Tensor) -> torch.Tensor:
    return torch.where(allowed, 0.0, -torch.inf)


def _all_to_one(shape: Shape, rank: int) -> torch.Tensor:
    return _only(torch.arange(shape.num_experts) < max(shape.experts_per_rank, shape.top_k))


def _empty_rank(shape: Shape, rank: int) -> torch.Tensor:
    return _only(torch.arange(shape.num_experts) < shape.num_experts - shape.experts_per_rank)


def _local(shape: Shape, rank: int) -> torch.Tensor:
    return _only(torch.arange(shape.num_experts) // shape.experts_per_rank == rank)


PATTERNS = {
    "uniform": _uniform,
    "zipf": _zipf,
    "all-to-one": _all_to_one,
    "empty-rank": _empty_rank,
    "one-token": _uniform,
    "local": _local,
}
