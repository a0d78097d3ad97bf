"""Other engines' routing records in the project's own form.

SGLang's recorder: per_token and per_pass files hold expert ids per token ("records"), stat files only counts
per step, layer and expert ("logical_count"). Engines that return routed experts with each response are read
from the responses.
"""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import InputError
from harness.moe import routing_log, torch_file
from harness.moe.routing_log import RoutingLog

_EXTEND = 1
"""SGLang's ForwardMode: 1 extends (prefill), 2 decodes, 3 mixes both."""


def if_foreign(name: str) -> str:
    """A path the log reader takes: the file itself, or a converted copy of a SGLang .pt file beside it."""
    path = Path(name)
    if path.suffix != ".pt":
        return name
    target = path.with_suffix(".jsonl")
    try:
        routing_log.write(sglang_records(torch_file.load(path), name), target)
    except PermissionError:
        target = Path(tempfile.mkdtemp(prefix="moe-")) / target.name
        routing_log.write(sglang_records(torch_file.load(path), name), target)
    return str(target)


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


def returned(responses: Sequence[tuple[str, int, str]], num_experts: int, source: str) -> RoutingLog:
    """vLLM's routed_experts: (request id, prompt length, base64 of a .npy [tokens - 1, layers, K]) each.

    Raises InputError for a field that does not decode.
    """
    blocks = []
    for step, (request_id, prompt_len, text) in enumerate(responses, start=1):
        try:
            array = np.load(io.BytesIO(base64.b64decode(text, validate=True)), allow_pickle=False)
            tokens, layers, top_k = array.shape
        except ValueError as reason:
            raise InputError(f"routed_experts of {request_id} does not decode: {reason}.") from None
        for layer in range(layers):
            blocks.append(
                {"step": step, "layer": layer, "requests": [[request_id, 0, tokens, prompt_len]]}
                | {"experts": array[:, layer], "weights": np.full((tokens, top_k), np.nan)}
            )
    return routing_log.assemble(blocks, num_experts, source)


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
