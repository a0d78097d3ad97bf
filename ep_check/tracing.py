"""Writes VLLM_MORI_TRACE logs from the model of the attempts, sound and broken, to try the analyser on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from ep_check import attempts
from ep_check.attempts import Rows, World

FAULTS = (
    "none",
    "dispatch-garbage",
    "topk-dedup",
    "source-dedup",
    "aiter-fault",
    "empty-mask",
    "mask-value-as-index",
    "nan-combine",
    "double-reduce",
)
_DEDUPS = {"topk-dedup": attempts.by_topk_ids, "source-dedup": attempts.by_source}


def trace(fault: str, sizes: attempts.Sizes, seed: int = 0) -> list[str]:
    """Lines of the eleven steps on rank 0 of a tensor-parallel group, with one fault of FAULTS."""
    if fault not in FAULTS:
        raise ValueError(f"unknown fault {fault!r}: choose one of {', '.join(FAULTS)}")
    # Tokens that share their experts exactly are what deduplication by expert ids stumbles over.
    world = attempts.build(sizes, replicated=True, seed=seed, num_sets=16 if fault == "topk-dedup" else 0)
    rows = attempts.dispatch(world, 0)
    if fault == "dispatch-garbage":
        rows = replace(rows, x=rows.x * 1000)
    buffer = torch.zeros(world.size * sizes.tokens, sizes.hidden)
    buffer[: len(rows.x)] = rows.x
    key = _DEDUPS.get(fault, attempts.by_local_index)
    first, inverse = attempts.first_rows(key(rows, world))
    unique = rows.take(first)
    lines = [
        _line(1, "Dispatch input", world.x[0]),
        _line(2, "After receive", buffer),
        _line(3, "After dedup", unique.x),
        _line(4, "Output to AITER", unique.x) + _ids(unique, world, fault),
    ]
    if fault == "aiter-fault":
        return [*lines, "Memory access fault by GPU node-1 on address 0x7f0000000000. Reason: Unknown."]
    return lines + _after_experts(world, unique, inverse, fault)


def _after_experts(world: World, unique: Rows, inverse: torch.Tensor, fault: str) -> list[str]:
    experts: attempts.Experts = attempts.aiter
    if fault == "mask-value-as-index":
        experts = attempts.mask_value_as_index
    if fault == "empty-mask":
        experts = partial(attempts.aiter, mask=torch.zeros(len(world.experts), dtype=torch.int64))
    out = experts(unique, world, 0)
    combined = attempts.run(world, experts)[0]
    if fault == "nan-combine":
        combined[3] = torch.nan
    final = combined * world.size if fault == "double-reduce" else combined
    named = [
        ("AITER output", out),
        ("After weight reduction", out),
        ("After expansion", out[inverse]),
        ("Combine input", out[inverse]),
        ("Combine output", combined),
        ("Cast to model dtype", combined),
        ("Final output", final),
    ]
    return [_line(number, name, tensor) for number, (name, tensor) in enumerate(named, start=5)]


def _ids(rows: Rows, world: World, fault: str) -> str:
    ids = world.map(0)[rows.ids] if fault == "aiter-fault" else rows.ids
    return f" ids_min={int(ids.min())} ids_max={int(ids.max())}"


def _line(step: int, name: str, tensor: torch.Tensor) -> str:
    finite = tensor[torch.isfinite(tensor)]
    return (
        f"[MORI TRACE] STEP {step}: {name} shape={list(tensor.shape)} dtype=torch.bfloat16 "
        f"min={float(finite.min()):.4f} max={float(finite.max()):.4f} mean={float(finite.mean()):.5f} "
        f"std={float(finite.std()):.5f} nan={tensor.numel() - finite.numel()}"
    )
