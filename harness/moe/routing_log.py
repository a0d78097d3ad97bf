"""Routing logs: which experts each token was routed to. One reader for text, binary and several ranks.

A log is a sequence of records, one JSON object a line:

    {"type":"header","format":1,"engine","rank","layers":[..],"num_experts","top_k","ids":"logical",...}
    {"type":"block","step","at","layer","rank","requests":[[id,start,num,prompt_len],..],
     "experts":[[..K..],..],"weights":[[..K..],..]}          "warmup":true on profiling passes
    {"type":"count","tokens","dropped_tokens","warmup_tokens","unseen_tokens",...}   running totals
    {"type":"problem","reason"}       why something that was asked for is not logged
    {"type":"note","reason"}          what a converted log cannot tell

A block is one layer in one forward pass; its N rows are the requests' tokens, one request after another, at
positions start .. start+num-1; positions below prompt_len are prefill. `.moelog` files hold the layers of a
step in one record of type "blocks": "layers" instead of "layer", and instead of the two lists the "shape"
[L, N, K], "experts_dtype", "weights_dtype", "bytes" and that many raw bytes after the line.
"""

from __future__ import annotations

import glob
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from harness.errors import InputError

COUNTS = (
    "dropped_tokens",
    "dropped_steps",
    "unseen_steps",
    "unseen_tokens",
    "unattributed_rows",
    "warmup_tokens",
)
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class RoutingLog:
    """Columns of equal length N, one row per token and layer; experts and weights are [N, K].

    weights are NaN where the source has none; expert -1 means "no expert in this slot".
    """

    source: str
    engine: str
    num_experts: int
    step: Ints
    layer: Ints
    rank: Ints
    request: Ints
    """Index into request_ids."""
    position: Ints
    prefill: NDArray[np.bool_]
    at: NDArray[np.float64]
    """Seconds since the epoch; 0 where unknown."""
    experts: Ints
    weights: NDArray[np.float32]
    request_ids: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that occur, ascending."""
        return tuple(int(layer) for layer in np.unique(self.layer))

    @property
    def top_k(self) -> int:
        """Experts per token."""
        return int(self.experts.shape[1]) if len(self.experts) else 0

    def where(self, rows: NDArray[np.bool_]) -> RoutingLog:
        """The same log with only some rows."""
        names = ("step", "layer", "rank", "request", "position", "prefill", "at", "experts", "weights")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})


def read(paths: Sequence[str], *, warmup: bool = False) -> RoutingLog:
    """All files as one log; patterns are expanded, and other ranks' files beside a log are taken along.

    Logged profiling and warm-up passes are left out, unless `warmup`: then they alone are read.

    Raises InputError for a missing file, a file that is no routing log, or logs of different models.
    """
    files = _files(paths)
    blocks: list[dict[str, Any]] = []
    headers: list[dict[str, Any]] = []
    counts = dict.fromkeys(COUNTS, 0)
    notes: list[str] = []
    problems: dict[str, None] = {}
    for path in files:
        last: dict[str, Any] = {}
        for record in _records(path, notes):
            if record["type"] == "header":
                headers.append(record)
                _add(counts, last)
                last = {}
            elif record["type"] == "count":
                last = record
            elif record["type"] == "problem":
                problems[record["reason"]] = None
            elif record["type"] == "note":
                notes.append(record["reason"])
            elif record["type"] == "block" and bool(record.get("warmup")) == warmup:
                blocks.append(record)
        _add(counts, last)
    if problems and not blocks:
        raise InputError(f"{files[0]} holds no routing: {'; '.join(problems)}.")
    if not headers:
        raise InputError(
            f"{files[0]} has no header record: it is no routing log (see docs/MOE.md for the format)."
        )
    if len({header["num_experts"] for header in headers}) > 1:
        raise InputError(
            "The files are logs of models with different numbers of experts: give one model's files."
        )
    log = assemble(blocks, headers[0]["num_experts"], ", ".join(map(str, files)))
    notes += problems
    notes += [f"{name}: {count}" for name, count in counts.items() if count and name != "warmup_tokens"]
    engine = str(headers[0].get("engine", ""))
    return replace(log, engine=engine, counts=counts, notes=tuple(notes))


def assemble(blocks: Iterable[dict[str, Any]], num_experts: int, source: str) -> RoutingLog:
    """Blocks -> columns. Raises InputError when there are none."""
    kept = [block for block in blocks if len(block["experts"])]
    if not kept:
        raise InputError(f"{source} holds no routed token: were requests sent, and is the layer a MoE layer?")
    names = {span[0]: None for block in kept for span in block["requests"]}
    index = {name: number for number, name in enumerate(names)}
    sizes = [len(block["experts"]) for block in kept]
    spans = [_expand(block["requests"], index, size) for block, size in zip(kept, sizes, strict=True)]
    return RoutingLog(
        source=source,
        engine="",
        num_experts=num_experts,
        step=np.repeat([block["step"] for block in kept], sizes),
        layer=np.repeat([block["layer"] for block in kept], sizes),
        rank=np.repeat([block.get("rank", 0) for block in kept], sizes),
        request=np.concatenate([span[0] for span in spans]),
        position=np.concatenate([span[1] for span in spans]),
        prefill=np.concatenate([span[2] for span in spans]),
        at=np.repeat([float(block.get("at", 0.0)) for block in kept], sizes),
        experts=_routed_only([block["experts"] for block in kept], num_experts),
        weights=np.concatenate([np.asarray(block["weights"], dtype=np.float32) for block in kept]),
        request_ids=tuple(names),
    )


def _routed_only(experts: Iterable[Any], num_experts: int) -> Ints:
    """All blocks' ids; an id behind the last expert is a shared expert that ROCm's router fuses in: -1."""
    ids = np.concatenate([np.asarray(of_block, dtype=np.int64) for of_block in experts])
    ids[ids >= num_experts] = -1
    return ids


def write(log: RoutingLog, path: Path) -> None:
    """Write a converted log as text, in the same format: one block per step, layer, rank."""
    header = {"type": "header", "format": 1, "engine": log.engine, "rank": 0, "layers": log.layers}
    lines = [header | {"num_experts": log.num_experts, "top_k": log.top_k, "ids": "logical"}]
    lines += [{"type": "note", "reason": note} for note in log.notes]
    order = np.lexsort((log.position, log.request, log.rank, log.layer, log.step))
    keys = np.stack([log.step, log.layer, log.rank], axis=1)[order]
    borders = np.flatnonzero((keys[1:] != keys[:-1]).any(axis=1)) + 1
    for rows in np.split(order, borders):
        step, layer, rank = (int(column[rows[0]]) for column in (log.step, log.layer, log.rank))
        lines.append(
            {"type": "block", "step": step, "at": float(log.at[rows[0]]), "layer": layer, "rank": rank}
            | {"requests": _spans(log, rows), "experts": log.experts[rows].tolist()}
            | {"weights": np.round(log.weights[rows].astype(float), 5).tolist()}
        )
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


def _files(paths: Sequence[str]) -> list[Path]:
    files: list[Path] = []
    for pattern in paths:
        found = sorted(glob.glob(pattern)) if any(c in pattern for c in "*?[") else [pattern]
        for name in found:
            path = Path(name)
            files += [path, *sorted(path.parent.glob(f"{path.stem}.rank*{path.suffix}"))]
    if not files:
        raise InputError(
            f"No file matches {' '.join(paths)!r}: give the routing logs of a bench with moe_log=."
        )
    for path in files:
        if not path.is_file():
            raise InputError(f"There is no file {path}: give a routing log of a bench with moe_log=.")
    return list(dict.fromkeys(files))


def _records(path: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        while line := file.readline():
            try:
                record = msgspec.json.decode(line)
                if not isinstance(record, dict) or "type" not in record:
                    raise ValueError("not a record")
                records = _layers(record, file) if record["type"] == "blocks" else [record]
            except ValueError as reason:
                if file.read(1):
                    raise InputError(f"{path} is no routing log, or is damaged: {reason}.") from None
                notes.append(f"{path.name} ends in the middle of a record: the writer was killed")
                return
            yield from records


def _layers(record: dict[str, Any], file: BinaryIO) -> list[dict[str, Any]]:
    data = file.read(record["bytes"] + 1)
    if len(data) < record["bytes"] + 1:
        raise ValueError("truncated block")
    num = math.prod(record["shape"])
    experts = np.frombuffer(data, dtype=record["experts_dtype"], count=num).reshape(record["shape"])
    weights = np.frombuffer(data, dtype=record["weights_dtype"], count=num, offset=experts.nbytes)
    return [
        record | {"type": "block", "layer": layer, "experts": ids, "weights": of_ids}
        for layer, ids, of_ids in zip(
            record["layers"], experts, weights.reshape(record["shape"]), strict=True
        )
    ]


def _expand(spans: list[list[Any]], index: dict[str, int], size: int) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    if sum(span[2] for span in spans) != size:
        raise InputError(
            f"A block of {size} rows names {sum(s[2] for s in spans)} tokens: the log is damaged."
        )
    request = np.repeat([index[span[0]] for span in spans], [span[2] for span in spans])
    position = np.concatenate([np.arange(start, start + num) for _, start, num, _ in spans])
    prompt_len = np.repeat([span[3] for span in spans], [span[2] for span in spans])
    return request, position, position < prompt_len


def _spans(log: RoutingLog, rows: Ints) -> list[list[Any]]:
    spans: list[list[Any]] = []
    for row in rows.tolist():
        name, position = log.request_ids[log.request[row]], int(log.position[row])
        prompt_len = position + 1 if log.prefill[row] else 0
        last = spans[-1] if spans else None
        joins = (
            last and last[0] == name and last[1] + last[2] == position and bool(last[3]) == bool(prompt_len)
        )
        if last and joins:
            last[2] += 1
            last[3] = prompt_len
        else:
            spans.append([name, position, 1, prompt_len])
    return spans


def _add(totals: dict[str, int], counts: dict[str, Any]) -> None:
    for name in COUNTS:
        totals[name] += int(counts.get(name, 0))
