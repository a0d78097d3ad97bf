"""The experts, and the dense single-process answer that dispatch -> experts -> combine must reproduce."""

from __future__ import annotations

import torch

from ep_check.routing import Routing, seeded
from ep_check.shape import Shape

TOLERANCE = 8 * 2**-8
"""Largest |difference| allowed, relative to the row's largest element: 8 bfloat16 steps, as CollectiveX."""
_CHUNK = 2048


def expert_vectors(shape: Shape) -> torch.Tensor:
    """[E, H] float32: expert e multiplies a token elementwise by row e; rows differ in size and sign.

    Any mix-up of experts, weights or tokens changes the result by far more than TOLERANCE.
    """
    size = 0.25 + (torch.arange(shape.num_experts) * 0.6180339887) % 1.0
    sign = torch.randint(0, 2, (shape.num_experts, shape.hidden), generator=seeded(shape.seed, 99)) * 2 - 1
    return size[:, None] * sign.float()


def apply_experts(
    x: torch.Tensor, routing: Routing, vectors: torch.Tensor, owned: range | None = None
) -> torch.Tensor:
    """[T, H] float32: sum over k of weight[t,k] * vectors[id[t,k]] * x[t]; only owned experts, if given."""
    out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for start in range(0, len(x), _CHUNK):
        rows = slice(start, start + _CHUNK)
        for k in range(routing.topk_ids.shape[1]):
            ids, weight = routing.topk_ids[rows, k], routing.topk_weights[rows, k]
            if owned is not None:
                weight = torch.where((ids >= owned.start) & (ids < owned.stop), weight, 0.0)
            out[rows] += weight[:, None] * vectors[ids.clamp_min(0)] * x[rows].float()
    return out


def worst_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """max over tokens of max|got - want| / max|want|; inf where not finite, 0 without tokens."""
    if not len(want):
        return 0.0
    if not bool(torch.isfinite(got).all()):
        return float("inf")
    difference = (got.float() - want).abs().amax(dim=1)
    return float((difference / want.abs().amax(dim=1).clamp_min(1e-6)).max())
