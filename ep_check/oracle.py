"""The experts, and the dense single-process answer that dispatch -> experts -> combine must reproduce."""

from __future__ import annotations

import torch

from ep_check.routing import Routing, seeded
from ep_check.shape import Shape

TOLERANCE = 8 * 2**-8
"""Largest |difference| allowed, relative to the row's largest element: 8 bfloat16 steps, as CollectiveX."""
_CHUNK = 2048
_HALF_STEP = {"none": 0.0, "fp8_direct_cast": 2**-4, "fp8_blockwise": 2**-4, "fp4_blockwise": 2**-2}
"""By MORI's quant_type, relative to the element."""


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


def half_step(shape: Shape) -> float:
    """Largest relative error of one rounding on the way home."""
    return _HALF_STEP[shape.option("quant_type") or "none"]


def combine_slack(x: torch.Tensor, routing: Routing, vectors: torch.Tensor, shape: Shape) -> torch.Tensor:
    """[T, H] what rounding every rank's partial sum for the way home may change; 0 where combine sends bf16.

    Sum over ranks of |partial| x half a step: 2^-4 with e4m3's three mantissa bits, 2^-2 with e2m1's one.
    """
    step = half_step(shape)
    slack = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    for rank in range(shape.world_size) if step else ():
        owned = range(rank * shape.experts_per_rank, (rank + 1) * shape.experts_per_rank)
        slack += step * apply_experts(x, routing, vectors, owned).abs()
    return slack


def worst_error(got: torch.Tensor, want: torch.Tensor, slack: torch.Tensor | float = 0.0) -> float:
    """max over tokens of max(|got - want| - slack) / max|want|; inf where not finite, 0 without tokens."""
    if not len(want):
        return 0.0
    if not bool(torch.isfinite(got).all()):
        return float("inf")
    difference = ((got.float() - want).abs() - slack).clamp_min(0).amax(dim=1)
    return float((difference / want.abs().amax(dim=1).clamp_min(1e-6)).max())
