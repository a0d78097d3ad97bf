"""Hold a visit's routing log against the model itself: every token once, and the experts the model chooses.

    python scripts/check_routing_log.py RUN/VARIANT/r1 MODEL_FOLDER [--requests 8] [--dtype float32]
        [--device cuda] [--keep REFERENCE.jsonl]

Runs where torch, transformers and the harness's own needs are. Each request's prompt and output are read once
by the plain model; its routers' choices are compared with the log row by row (same request, position, layer)
and as a distribution (Jensen-Shannon distance, `floor` = two halves of one source). bf16 engines flip near
ties against a float32 model, so rows need not all agree; rows of another token or step agree by chance only.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from engines.transformers_oracle import Oracle
from engines.transformers_reading import pieces
from harness import store
from harness.extras import moe_log
from harness.moe import distance, routing_log, timed
from harness.moe.routing_log import RoutingLog
from harness.schema import Request

_LAYER = re.compile(r"\.layers\.(\d+)\.")


def main() -> None:
    """Print the verdicts."""
    given = _arguments()
    log = timed.only(routing_log.read([str(moe_log.log_of(given.visit))]), given.visit)
    print(f"{log.engine}: {len(log.step)} rows, layers {log.layers}, top-{log.top_k} of {log.num_experts}")
    print("counts:", log.counts, *log.notes, sep="\n  ")
    _print_completeness(log, _lengths(given.visit))
    tokens = _tokens(given.visit)
    if not tokens:
        sys.exit("no prompt was kept: run with verify=8, so that some requests' tokens are known")
    chosen = _sample(log, tokens, given.requests)
    oracle = Oracle(given.model, given.dtype, given.device)
    reference = _reference(oracle, log, {number: tokens[_client(log, number)] for number in chosen})
    _print_agreement(log.where(np.isin(log.request, chosen)), reference)
    if given.keep:
        routing_log.write(reference, given.keep)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("visit", type=Path)
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--keep", type=Path)
    return parser.parse_args()


def _trials(visit: Path) -> Iterator[Path]:
    yield from sorted(path.parent for path in visit.glob("*/requests.jsonl*"))


def _lengths(visit: Path) -> dict[str, int]:
    """Tokens the engine has read per answered request: its prompt and all outputs but the last."""
    records = [record for folder in _trials(visit) for record in store.records(folder) if not record.error]
    return {record.request_id: record.prompt_len + record.output_len - 1 for record in records}


def _tokens(visit: Path) -> dict[str, list[int]]:
    """Those tokens' ids; a run keeps the prompts of the requests it verifies."""
    found = {}
    for folder in _trials(visit):
        asked = visit.parents[1] / "workloads" / f"{folder.name}.jsonl"
        prompts = {r.request_id: r.prompt_token_ids or () for r in store.read_lines(asked, Request)}
        for record in store.records(folder):
            if record.output_token_ids and record.request_id in prompts and not record.error:
                found[record.request_id] = [*prompts[record.request_id], *record.output_token_ids[:-1]]
    return found


def _client(log: RoutingLog, number: int) -> str:
    return timed.client_id(log.request_ids[number])


def _print_completeness(log: RoutingLog, lengths: dict[str, int]) -> None:
    """Of every request that was answered, each token at each layer once, but for a cached prefix."""
    kinds = dict.fromkeys(("whole", "behind a cached prefix", "wrong"), 0)
    for number in np.unique(log.request).tolist():
        expected = lengths.get(_client(log, number), 0)
        if not expected:
            continue
        mine = log.where(log.request == number)
        spans = {tuple(np.sort(mine.position[mine.layer == layer]).tolist()) for layer in log.layers}
        first = min(min(span, default=0) for span in spans)
        if spans != {tuple(range(first, expected))}:
            kinds["wrong"] += 1
        else:
            kinds["behind a cached prefix" if first else "whole"] += 1
    rows = sum(lengths.values()) * len(log.layers)
    print(f"answered requests need {rows} rows (prompt + output - 1 tokens, {len(log.layers)} layers)")
    print("requests (warm-up repeats ids):", kinds)


def _sample(log: RoutingLog, tokens: dict[str, list[int]], num: int) -> list[int]:
    seen = [n for n in np.unique(log.request).tolist() if _client(log, n) in tokens]
    return [seen[i] for i in np.unique(np.linspace(0, len(seen) - 1, num).astype(int)).tolist()]


def _reference(oracle: Oracle, log: RoutingLog, wanted: dict[int, list[int]]) -> RoutingLog:
    """The model's own choices for the same requests, rows of layers that are logged."""
    names = [name for name, m in oracle.model.named_modules() if type(m).__name__.endswith("TopKRouter")]
    numbers = [int(found[1]) for name in names if (found := _LAYER.search(f".{name}"))]
    oracle.routes.on = True
    blocks: list[dict[str, Any]] = []
    for number, ids in wanted.items():
        for _ in pieces(oracle.model, ids):
            pass
        routes = np.asarray(oracle.routes.take())
        span = [log.request_ids[number], 0, len(ids), len(ids)]
        blocks += [
            {"step": 1, "layer": layer, "requests": [span], "experts": routes[:, at]}
            | {"weights": np.full(routes[:, at].shape, np.nan)}
            for at, layer in enumerate(numbers)
            if layer in log.layers
        ]
    made = routing_log.assemble(blocks, log.num_experts, "the model itself")
    return replace(made, engine=f"transformers {oracle.model.dtype}")


def _print_agreement(log: RoutingLog, reference: RoutingLog) -> None:
    print(f"{'layer':>5} {'rows':>8} {'same set':>9} {'overlap':>8} {'JS distance':>12} {'floor':>7} differs")
    for found in distance.compare(log, reference):
        mine, theirs = _aligned(log, found.layer), _aligned(reference, found.layer)
        both = [key for key in mine if key in theirs]
        shared = [len(mine[key] & theirs[key]) for key in both]
        same = np.mean([count == log.top_k for count in shared])
        print(
            f"{found.layer:>5} {len(both):>8} {same:>9.4f} {np.mean(shared) / log.top_k:>8.4f} "
            f"{found.distance:>12.4f} {found.floor:>7.4f} {'yes' if found.differs else 'no'}"
        )


def _aligned(log: RoutingLog, layer: int) -> dict[tuple[str, int], frozenset[int]]:
    part = log.where(log.layer == layer)
    names: Sequence[str] = [part.request_ids[i] for i in part.request.tolist()]
    keys = zip(names, part.position.tolist(), strict=True)
    return dict(zip(keys, map(frozenset, part.experts.tolist()), strict=True))


if __name__ == "__main__":
    main()
