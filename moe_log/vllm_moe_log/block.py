"""Logged blocks (one layer in one step each) as text or as bytes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
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


def to_text(blocks: Sequence[Block]) -> bytes:
    """One JSON line per block; weights to five decimals."""
    return b"".join(map(_line, blocks))


def to_binary(blocks: Sequence[Block]) -> bytes:
    """Per run of blocks over the same tokens (a step's layers) one JSON line with shape [L, N, K] and types,
    then the raw little-endian arrays: experts, weights."""
    groups = itertools.groupby(blocks, key=lambda block: (block.step, block.spans, block.warmup))
    return b"".join(_layers(list(group)) for _, group in groups)


def _line(block: Block) -> bytes:
    weights = np.round(np.asarray(block.weights, dtype=np.float64), 5)
    head = {"type": "block", **_head(block), "layer": block.layer}
    return encode({**head, "experts": np.asarray(block.experts).tolist(), "weights": weights.tolist()})


def _layers(blocks: list[Block]) -> bytes:
    experts = np.stack([block.experts for block in blocks])
    weights = np.stack([block.weights for block in blocks])
    small = experts.size == 0 or (experts.min() >= 0 and experts.max() < 256)
    dtype = "<u1" if small else "<i2"
    payload = experts.astype(dtype).tobytes() + weights.astype("<f2").tobytes()
    arrays = {
        "layers": [block.layer for block in blocks],
        "shape": list(experts.shape),
        "experts_dtype": dtype,
        "weights_dtype": "<f2",
        "bytes": len(payload),
    }
    return encode({"type": "blocks", **_head(blocks[0]), **arrays}) + payload + b"\n"


def encode(record: dict[str, Any]) -> bytes:
    """A record as one line."""
    return _json(record) + b"\n"


def _head(block: Block) -> dict[str, Any]:
    return {
        "step": block.step,
        "at": round(block.at, 4),
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
