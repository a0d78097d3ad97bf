"""Small routing logs for tests, written by the plugin's own encoders."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "moe_log"))

from vllm_moe_log import flags, step  # noqa: E402
from vllm_moe_log.block import Block, to_binary, to_text  # noqa: E402
from vllm_moe_log.step import Layout, Span  # noqa: E402
from vllm_moe_log.writer import Batch, Writer  # noqa: E402

__all__ = ["Batch", "Block", "Layout", "Span", "Writer", "block", "flags", "random_log", "step", "write"]

HEADER = {"type": "header", "format": 1, "engine": "vllm 0", "rank": 0, "num_experts": 8, "top_k": 2}


def block(step: int, layer: int, spans: Sequence[tuple[str, int, int, int]], experts: Any) -> Block:
    """A block whose weights fall with the slot."""
    ids = np.asarray(experts)
    weights = np.broadcast_to(np.linspace(0.75, 0.25, ids.shape[1]), ids.shape).astype(np.float32)
    return Block(step, 1000.0 + step, layer, 0, tuple(Span(*span) for span in spans), ids, weights)


def write(path: Path, blocks: Sequence[Block], **counts: int) -> Path:
    """A log file; the suffix picks the format."""
    encode = to_binary if path.suffix == ".moelog" else to_text
    lines = [msgspec.json.encode(HEADER) + b"\n", encode(blocks)]
    if counts:
        lines.append(msgspec.json.encode({"type": "count", **counts}) + b"\n")
    path.write_bytes(b"".join(lines))
    return path


def random_log(
    path: Path, num_requests: int, seed: int, favour: float = 0.0, lengths: tuple[int, int] = (20, 12)
) -> Path:
    """Requests of so many routed (prompt, output) tokens at layers 0, 1; `favour` pulls them to expert 0."""
    prompt_len, num = lengths[0], sum(lengths)
    random = np.random.default_rng(seed)
    weight = np.ones(8)
    weight[0] += favour * 8
    blocks = []
    for request in range(num_requests):
        for layer in (0, 1):
            scores = np.log(weight) + random.gumbel(size=(num, 8))
            ids = np.argsort(-scores, axis=1)[:, :2]
            blocks.append(block(request + 1, layer, [(f"r{request}", 0, num, prompt_len)], ids))
    return write(path, blocks)
