"""Other engines' routing records in the project's own form.

SGLang's recorder: per_token and per_pass files hold expert ids per token ("records"), stat files only counts
per step, layer and expert ("logical_count"). Responses that carry routed experts: responses.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import InputError
from harness.moe import responses, routing_log, torch_file
from harness.moe.routing_log import RoutingLog
from harness.schema import MoeFacts

_EXTEND = 1
"""SGLang's ForwardMode: 1 extends (prefill), 2 decodes, 3 mixes both."""


def if_foreign(name: str, moe: MoeFacts | None = None) -> str:
    """A path the log reader takes: the file itself, or a converted copy beside it (else in a temporary one).

    Foreign are SGLang's .pt dumps, and .jsonl files whose lines are responses with routed experts.
    """
    path = Path(name)
    if path.suffix != ".pt" and not (path.suffix in (".jsonl", ".json") and responses.are_in(path)):
        return name
    log = sglang_dumps([path]) if path.suffix == ".pt" else responses.read(path, moe)
    target = path.with_suffix(".routing.jsonl")
    try:
        routing_log.write(log, target)
    except PermissionError:
        target = Path(tempfile.mkdtemp(prefix="moe-")) / target.name
        routing_log.write(log, target)
    return str(target)


def sglang_dumps(paths: Sequence[Path]) -> RoutingLog:
    """Dumps of one run, one per rank and dump. Raises InputError.

    Tensor-parallel ranks record the same pass over the same tokens: the first rank's record stands for all.
    """
    loaded = [torch_file.load(path) for path in paths]
    if any(not isinstance(saved, Mapping) or "records" not in saved for saved in loaded):
        return sglang_records(loaded[0] if len(loaded) == 1 else {"logical_count": ()}, str(paths[0]))
    seen: set[tuple[Any, ...]] = set()
    kept = []
    for record in sorted((r for saved in loaded for r in saved["records"]), key=lambda r: int(r["rank"])):
        tokens = (int(record["forward_pass_id"]), tuple(record["positions"]), tuple(record["input_ids"]))
        if tokens not in seen:
            seen.add(tokens)
            kept.append(record)
    return sglang_records({**loaded[-1], "records": kept}, ", ".join(map(str, paths)))


def sglang_records(saved: Any, source: str) -> RoutingLog:
    """A per_token or per_pass dump. Physical ids are mapped back to logical ones. Raises InputError."""
    if isinstance(saved, Mapping) and "logical_count" in saved:
        raise InputError(
            f"{source} is a stat dump, which has counts but no tokens: start SGLang with "
            "--expert-distribution-recorder-mode per_token."
        )
    if not isinstance(saved, Mapping) or "records" not in saved:
        raise InputError(f"{source} is no dump of SGLang's expert distribution recorder.")
    logical = np.asarray(saved["last_physical_to_logical_map"])
    blocks = [block for record in saved["records"] for block in _blocks(record, logical)]
    log = routing_log.assemble(blocks, int(logical.max()) + 1, source)
    return replace(log, engine="sglang", notes=("SGLang's recorder names no requests and no weights",))


def _blocks(record: Mapping[str, Any], logical: Any) -> Iterator[dict[str, Any]]:
    positions = list(record["positions"])
    if not positions:
        return
    # Slots beyond the model's top-k hold -1 (the recorder always has eight).
    per_layer = np.asarray(record["topk_ids_of_layer"])
    used = per_layer[..., (per_layer >= 0).any(axis=(0, 1))]
    for layer, physical in enumerate(used):
        if not (physical >= 0).any():
            continue  # a dense layer
        table = logical[layer] if logical.ndim == 2 else logical
        experts = np.where(physical >= 0, table[physical.clip(min=0)], -1)
        yield {
            "step": int(record["forward_pass_id"]),
            "layer": layer,
            "rank": int(record["rank"]),
            "requests": _spans(record, positions),
            "experts": experts,
            "weights": np.full(experts.shape, np.nan),
        }


def _spans(record: Mapping[str, Any], positions: list[int]) -> list[list[Any]]:
    """Extended sequences as spans of their lengths, everything else as one token each."""
    name = f"pass-{int(record['forward_pass_id'])}"
    lengths = list(record.get("extend_seq_lens") or ()) if int(record["forward_mode"]) == _EXTEND else []
    if sum(lengths) != len(positions):
        return [[f"{name}-{index}", position, 1, 0] for index, position in enumerate(positions)]
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(int).tolist()
    return [
        [f"{name}-{index}", positions[start], length, positions[start] + length]
        for index, (start, length) in enumerate(zip(starts, lengths, strict=True))
        if length
    ]
