"""Seeded token payloads that carry their own origin, so that any backend's output can be traced home."""

from __future__ import annotations

import torch

from ep_check.routing import seeded
from ep_check.shape import Shape

FP8_BLOCK = 128
FP8_MAX = 448.0
_TAG = 128.0
"""Bytes are stored as byte/128: exact in bfloat16 and no larger than 2, so a tag does not dwarf the row."""


def build(shape: Shape, rank: int, num_tokens: int, iteration: int = 0) -> torch.Tensor:
    """[T, H] bfloat16 on the CPU; columns 0..2 hold rank and token number, see origin()."""
    noise = torch.randn(num_tokens, shape.hidden, generator=seeded(shape.seed, iteration, rank, 7))
    number = torch.arange(num_tokens, dtype=torch.float32)
    noise[:, 0] = rank / _TAG
    noise[:, 1] = (number // 256) / _TAG
    noise[:, 2] = (number % 256) / _TAG
    return noise.to(torch.bfloat16)


def origin(x: torch.Tensor, shape: Shape) -> torch.Tensor:
    """[R] int64 source position rank * max_tokens + token, read from the payload's own columns."""
    tag = (x[:, :3].float() * _TAG).round().to(torch.int64)
    return tag[:, 0] * shape.max_tokens + tag[:, 1] * 256 + tag[:, 2]


def quantize(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Blockwise e4m3: ([T, H] float8_e4m3fn, [T, H/128] float32 scales), scale = max|block| / 448."""
    blocks = x.float().unflatten(1, (-1, FP8_BLOCK))
    scales = blocks.abs().amax(dim=2).clamp_min(1e-12) / FP8_MAX
    return (blocks / scales[:, :, None]).flatten(1).to(torch.float8_e4m3fn), scales


def dequantize(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Inverse of quantize, [T, H] bfloat16."""
    blocks = values.float().unflatten(1, (-1, FP8_BLOCK)) * scales[:, :, None]
    return blocks.flatten(1).to(torch.bfloat16)


def as_dispatched(x: torch.Tensor, shape: Shape) -> torch.Tensor:
    """What a receiver must see of x: the same bits in bf16, the modelled rounding in fp8."""
    return dequantize(*quantize(x)) if shape.dispatch_dtype == "fp8" else x
