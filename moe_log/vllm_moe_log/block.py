"""One logged block (one layer in one step) as text or as bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vllm_moe_log.step import Span


@dataclass(frozen=True)
class Block:
    """experts [N, K] integers and weights [N, K] floats of N tokens, in the order of the spans."""

    step: int
    at: float
    """Wall clock, seconds since the epoch."""
    layer: int
    rank: int
    spans: tuple[Span, ...]
    experts: Any
    weights: Any
    warmup: bool = False
    """A profiling or warm-up pass: no request stands behind it."""


def to_text(block: Block) -> bytes:
    """One JSON line; weights to five decimals."""
    weights = np.round(np.asarray(block.weights, dtype=np.float64), 5)
    return encode(
        {**_head(block), "experts": np.asarray(block.experts).tolist(), "weights": weights.tolist()}
    )


def to_binary(block: Block) -> bytes:
    """One JSON line with shape and types, then the raw little-endian arrays: experts, weights."""
    experts = np.asarray(block.experts)
    dtype = "<u1" if experts.size == 0 or experts.max() < 256 else "<u2"
    payload = experts.astype(dtype).tobytes() + np.asarray(block.weights).astype("<f2").tobytes()
    arrays = {
        "shape": list(experts.shape),
        "experts_dtype": dtype,
        "weights_dtype": "<f2",
        "bytes": len(payload),
    }
    return encode({**_head(block), **arrays}) + payload + b"\n"


def encode(record: dict[str, Any]) -> bytes:
    """A record as one line."""
    return _json(record) + b"\n"


def _head(block: Block) -> dict[str, Any]:
    return {
        "type": "block",
        "step": block.step,
        "at": round(block.at, 4),
        "layer": block.layer,
        "rank": block.rank,
        "requests": block.spans,
        **({"warmup": True} if block.warmup else {}),
    }


def _encoder() -> Callable[[Any], bytes]:
    """msgspec's, which vLLM brings and which holds the interpreter lock a tenth as long; else json's."""
    try:
        import msgspec
    except ImportError:
        return lambda record: json.dumps(record, separators=(",", ":")).encode()
    return msgspec.json.Encoder().encode


_json = _encoder()
