"""`vllm bench serve` JSON, from the spelling of 0.8.4 (and its forks) to 0.33.

Its TPOT is ours; its ITL are gaps between chunks. Its TTFT ends at the first chunk that has choices, even an
empty one: on chat endpoints that is the role chunk, so TTFT, TPOT and ICL of those are left out.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import msgspec

from harness.reporting.importers import figures
from harness.schema import Imported, Metrics, RequestRecord


def recognises(data: dict[str, Any]) -> bool:
    """Whether this is such an object."""
    return "output_throughput" in data and ("model_id" in data or "total_token_throughput" in data)


def convert(objects: list[dict[str, Any]], file: str) -> list[Imported]:
    """One measurement per object."""
    return [_one(data, file) for data in objects]


def _one(data: dict[str, Any], file: str) -> Imported:
    records = _records(data)
    found = figures.recomputed(records, chunks_known=True) if records else _aggregates(data)
    goodput = data.get("request_goodput", data.get("request_goodput:"))
    if isinstance(goodput, int | float):
        found = msgspec.structs.replace(found, request_goodput=float(goodput))
    caveats = []
    if "chat" in str(data.get("endpoint_type") or data.get("backend") or ""):
        found = msgspec.structs.replace(found, ttft_s=None, tpot_s=None, icl_s=None)
        caveats.append("TTFT, TPOT, ICL left out: this tool's chat TTFT ends at the empty role chunk")
    shape = figures.shape(found.total_input_tokens, found.total_output_tokens, found.completed)
    rate, concurrency = data.get("request_rate"), data.get("max_concurrency")
    return Imported(
        tool="vllm bench serve",
        file=file,
        variant=str(data.get("label") or data.get("backend") or "unnamed"),
        scenario=figures.scenario(shape, concurrency, _number(rate)),
        model=str(data.get("model_id") or ""),
        date=str(data.get("date") or ""),
        metrics=found,
        caveats=tuple(caveats),
        records=records,
    )


def _number(rate: object) -> float | None:
    """request_rate is the string "inf" or a number."""
    try:
        return float(rate)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _aggregates(data: dict[str, Any]) -> Metrics:
    completed = int(data["completed"])
    failed = data.get("failed")
    if failed is None:  # before 0.11
        failed = max(0, int(data.get("num_prompts") or completed) - completed)
    tokens = (int(data["total_input_tokens"]), int(data["total_output_tokens"]))
    base = figures.totals((completed, int(failed)), tokens, float(data["duration"]))
    return msgspec.structs.replace(
        base,
        ttft_s=figures.flat(data, "ttft", completed),
        tpot_s=figures.flat(data, "tpot", completed),
        icl_s=figures.flat(data, "itl", completed),
        e2el_s=figures.flat(data, "e2el", completed),
    )


def _records(data: dict[str, Any]) -> tuple[RequestRecord, ...]:
    """Single requests, where --save-detailed kept them with their start times."""
    columns: list[Any] = [
        data.get(name) for name in ("start_times", "ttfts", "itls", "input_lens", "output_lens")
    ]
    if not all(isinstance(column, list) and column for column in columns):
        return ()
    begin = min(columns[0])
    errors = data.get("errors") or [""] * len(columns[0])
    return tuple(
        _record(index, row, str(error or ""), begin)
        for index, (row, error) in enumerate(zip(zip(*columns, strict=True), errors, strict=True))
    )


def _record(index: int, row: tuple[Any, ...], error: str, begin: float) -> RequestRecord:
    start, ttft, gaps, input_len, output_len = row
    sent = start - begin
    return RequestRecord(
        request_id=str(index),
        due_at_s=sent,
        sent_at_s=sent,
        content_at_s=() if error else tuple(accumulate(gaps, initial=sent + ttft)),
        prompt_len=int(input_len),
        input_len=int(input_len),
        output_len=int(output_len),
        usage=True,
        error_kind="engine" if error else "",
        error=error,
    )
