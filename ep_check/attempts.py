"""The attempts of the MORI EP + AITER debug notes as a small model: what each computes, right or wrong.

One process plays all ranks. An expert multiplies a token by a vector of its own, so any mix-up shows. What
the model keeps: dispatch sends a token once to each rank that owns any of its experts, ids stay global; under
tensor parallelism every rank holds the same tokens, so replicas arrive; Triton takes a map (local index, -1
to skip); AITER takes a 0/1 mask, its local slot is the number of ones before the expert, and -1 faults.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ep_check.routing import seeded

Experts = Callable[["Rows", "World", int], torch.Tensor]
Key = Callable[["Rows", "World"], torch.Tensor]


class MemoryFaultError(RuntimeError):
    """What the GPU would do when an index of -1 is used as an address."""


@dataclass(frozen=True)
class World:
    """x [W, T, H], ids and weights [W, T, K] of all ranks, experts [E, H]."""

    x: torch.Tensor
    ids: torch.Tensor
    weights: torch.Tensor
    experts: torch.Tensor

    @property
    def size(self) -> int:
        """Ranks."""
        return len(self.x)

    @property
    def experts_per_rank(self) -> int:
        """Experts one rank owns."""
        return len(self.experts) // self.size

    def local(self, rank: int) -> torch.Tensor:
        """[E/W, H] the experts of a rank."""
        return self.experts[rank * self.experts_per_rank : (rank + 1) * self.experts_per_rank]

    def mask(self, rank: int) -> torch.Tensor:
        """[E] AITER's mask: 1 for the rank's experts."""
        owner = torch.arange(len(self.experts)) // self.experts_per_rank
        return (owner == rank).to(torch.int64)

    def map(self, rank: int) -> torch.Tensor:
        """[E] Triton's map: local index, -1 for other ranks' experts."""
        index = torch.arange(len(self.experts)) - rank * self.experts_per_rank
        return torch.where(self.mask(rank) == 1, index, -1)


@dataclass(frozen=True)
class Rows:
    """Tokens on one rank after dispatch; source = source rank * T + token."""

    x: torch.Tensor
    ids: torch.Tensor
    weights: torch.Tensor
    source: torch.Tensor

    def take(self, rows: torch.Tensor) -> Rows:
        """A selection."""
        return Rows(self.x[rows], self.ids[rows], self.weights[rows], self.source[rows])


@dataclass(frozen=True)
class Sizes:
    """Ranks, tokens per rank, hidden, experts, top-k."""

    ranks: int = 8
    tokens: int = 64
    hidden: int = 64
    experts: int = 32
    top_k: int = 4


def build(sizes: Sizes, *, replicated: bool, seed: int = 0, num_sets: int = 0) -> World:
    """Seeded world; replicated = tensor parallelism: all ranks hold rank 0's tokens.

    num_sets > 0: tokens choose among that many expert sets only, as with skewed routing.
    """
    random = seeded(seed)
    shape = (sizes.ranks, sizes.tokens)
    x = torch.randn(*shape, sizes.hidden, generator=random) * 0.1
    ids = torch.rand(*shape, sizes.experts, generator=random).topk(sizes.top_k, dim=2).indices
    if num_sets:
        ids = ids[0, torch.randint(0, num_sets, shape, generator=random)]
    weights = torch.softmax(torch.randn(*shape, sizes.top_k, generator=random), dim=2)
    experts = torch.randn(sizes.experts, sizes.hidden, generator=random)
    if replicated:
        x, ids, weights = (t[:1].expand(t.shape).clone() for t in (x, ids, weights))
    return World(x, ids, weights, experts)


def dense(world: World) -> torch.Tensor:
    """[W, T, H] what every attempt should give."""
    return (world.weights[..., None] * world.experts[world.ids] * world.x[:, :, None, :]).sum(dim=2)


def dispatch(world: World, rank: int) -> Rows:
    """What `rank` receives: each token once, however many of its experts live there."""
    flat = Rows(
        world.x.flatten(0, 1),
        world.ids.flatten(0, 1),
        world.weights.flatten(0, 1),
        torch.arange(world.size * world.x.shape[1]),
    )
    return flat.take((flat.ids // world.experts_per_rank == rank).any(dim=1).nonzero()[:, 0])


def combine(
    world: World, partial: list[tuple[Rows, torch.Tensor]], ids: torch.Tensor | None = None
) -> torch.Tensor:
    """[W, T, H]: each token fetches and adds the partial sums of the ranks that `ids` [W, T, K] names.

    ids must be the ones dispatched from here (None); a rank that holds nothing for a token yields zeros.
    """
    ids = world.ids if ids is None else ids
    out = torch.zeros_like(world.x).flatten(0, 1)
    for rank, (rows, result) in enumerate(partial):
        named = (ids.flatten(0, 1) // world.experts_per_rank == rank).any(dim=1)[rows.source]
        out.index_add_(0, rows.source[named], result[named])
    return out.view_as(world.x)


def aiter(rows: Rows, world: World, rank: int, mask: torch.Tensor | None = None) -> torch.Tensor:
    """AITER as it is: slot = number of ones before the expert; entries below zero fault."""
    mask = world.mask(rank) if mask is None else mask
    if bool((mask < 0).any()):
        raise MemoryFaultError("expert mask holds -1: AITER uses it as an address")
    slots = mask.cumsum(0) - mask
    return _apply(
        rows, world.local(rank)[slots[rows.ids].clamp_max(world.experts_per_rank - 1)], mask[rows.ids]
    )


def triton(rows: Rows, world: World, rank: int) -> torch.Tensor:
    """Triton with its map: -1 is skipped."""
    local = world.map(rank)[rows.ids]
    return _apply(rows, world.local(rank)[local.clamp_min(0)], (local >= 0).to(torch.int64))


def mask_value_as_index(rows: Rows, world: World, rank: int) -> torch.Tensor:
    """The notes' reading of the mask: its value, 1, is the local index, so w1[1] serves every expert."""
    mask = world.mask(rank)
    return _apply(rows, world.local(rank)[mask[rows.ids]], mask[rows.ids])


def map_given_to_aiter(rows: Rows, world: World, rank: int) -> torch.Tensor:
    """Attempt 4: Triton's map where AITER expects a mask."""
    return aiter(rows, world, rank, mask=world.map(rank))


def local_ids_zero_weights(rows: Rows, world: World, rank: int) -> torch.Tensor:
    """Attempt 5 ("v6"): ids made local, other ranks' experts sent to slot 0 with weight 0, no map at all.

    Right, but every row costs top-k experts, and 0 x inf is NaN where slot 0 overflows on a foreign token.
    """
    local = world.map(rank)[rows.ids]
    weights = torch.where(local >= 0, rows.weights, 0.0)
    everyone = torch.ones_like(local)
    return _apply(replace(rows, weights=weights), world.local(rank)[local.clamp_min(0)], everyone)


def by_topk_ids(rows: Rows, world: World) -> torch.Tensor:
    """Attempt 1: rows with equal expert ids count as one token."""
    return torch.unique(rows.ids, dim=0, return_inverse=True)[1]


def by_source(rows: Rows, world: World) -> torch.Tensor:
    """Attempt 2: rows with equal source position; replicas come from different ranks, so none are equal."""
    return rows.source


def by_local_index(rows: Rows, world: World) -> torch.Tensor:
    """Attempt 3: rows with equal token number, whichever rank they came from."""
    return rows.source % world.x.shape[1]


def deduplicated(rows: Rows, world: World, rank: int, key: Key, experts: Experts = aiter) -> torch.Tensor:
    """Compute the first row of each key and copy its result to the others; see first_rows()."""
    first, inverse = first_rows(key(rows, world))
    return experts(rows.take(first), world, rank)[inverse]


def first_rows(key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(first row of each distinct key, in order of key; key number of every row)."""
    _, inverse = torch.unique(key, return_inverse=True)
    first = torch.full((int(inverse.max()) + 1,), len(key), dtype=torch.int64)
    first.scatter_reduce_(0, inverse, torch.arange(len(key)), reduce="amin")
    return first, inverse


def run(world: World, experts: Experts, *, all_reduce: bool = False) -> torch.Tensor:
    """[W, T, H] dispatch -> experts -> combine; all_reduce adds the ranks' results, as a TP layer does."""
    received = [dispatch(world, rank) for rank in range(world.size)]
    out = combine(world, [(rows, experts(rows, world, rank)) for rank, rows in enumerate(received)])
    return out.sum(dim=0, keepdim=True).expand_as(out) if all_reduce else out


def combined_with_dispatched_ids(world: World) -> torch.Tensor:
    """vLLM 0.24 to 0.31: combine() is given the ids that arrived, not the ids that were sent."""
    received = [dispatch(world, rank) for rank in range(world.size)]
    tokens = world.x.shape[1]
    wrong = torch.stack([rows.ids[:tokens] for rows in received])
    return combine(world, [(rows, aiter(rows, world, rank)) for rank, rows in enumerate(received)], wrong)


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    """max|got - want| / max|want|; inf when not finite."""
    return (
        float((got - want).abs().max() / want.abs().max())
        if bool(torch.isfinite(got).all())
        else float("inf")
    )


def _apply(rows: Rows, vectors: torch.Tensor, active: torch.Tensor) -> torch.Tensor:
    # Skipped slots are left out rather than multiplied by zero, as a kernel does.
    term = rows.weights[..., None] * vectors * rows.x[:, None, :]
    return torch.where(active[..., None] == 1, term, 0.0).sum(dim=1)
