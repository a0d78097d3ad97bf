"""guidellm benchmarks.json (0.7 to 0.8, metadata.version 2): one measurement per benchmark.

What it calls inter_token_latency is our TPOT; its time_per_output_token is E2EL / tokens and is not used.
Its clock is the wall clock, which steps with NTP.
"""

from __future__ import annotations

from typing import Any

import msgspec

from harness.reporting.importers import figures
from harness.schema import Imported, Metrics, RequestRecord

_CAVEAT = "timed by the wall clock, which may step"


def recognises(data: dict[str, Any]) -> bool:
    """Whether this is such a file."""
    return isinstance(data.get("benchmarks"), list) and "metadata" in data


def convert(objects: list[dict[str, Any]], file: str) -> list[Imported]:
    """One measurement per strategy."""
    (data,) = objects
    return [_one(benchmark, data["metadata"], file) for benchmark in data["benchmarks"]]


def _one(benchmark: dict[str, Any], metadata: dict[str, Any], file: str) -> Imported:
    config = benchmark["config"]
    records = _records(benchmark)
    found = figures.recomputed(records, chunks_known=False) if records else _aggregates(benchmark)
    strategy = config.get("strategy") or {}
    shape = figures.shape(found.total_input_tokens, found.total_output_tokens, found.completed)
    rate = strategy.get("rate") if strategy.get("type_") in ("constant", "poisson", "async") else None
    streams = strategy.get("streams") or strategy.get("max_concurrency")
    return Imported(
        tool="guidellm",
        tool_version=str(metadata.get("guidellm_version") or ""),
        file=file,
        variant=figures.stem(file),
        scenario=figures.scenario(shape, None if rate else streams, rate),
        model=str((config.get("backend") or {}).get("model") or ""),
        metrics=found,
        caveats=(_CAVEAT,),
        records=records,
    )


def _aggregates(benchmark: dict[str, Any]) -> Metrics:
    values, scheduler = benchmark["metrics"], benchmark["scheduler_metrics"]
    counts = values["request_totals"]
    completed = int(counts["successful"])
    window_s = float(scheduler["measure_end_time"]) - float(scheduler["measure_start_time"])
    tokens = tuple(
        int(values[name]["successful"]["total_sum"]) for name in ("prompt_token_count", "output_token_count")
    )
    failed = int(counts.get("errored") or 0)
    base = figures.totals((completed, failed), (tokens[0], tokens[1]), window_s)
    return msgspec.structs.replace(
        base,
        ttft_s=_latency(values, "time_to_first_token_ms", completed, 1e-3),
        tpot_s=_latency(values, "inter_token_latency_ms", completed, 1e-3),
        e2el_s=_latency(values, "request_latency", completed, 1.0),
    )


def _latency(values: dict[str, Any], name: str, count: int, factor: float) -> Any:
    summary = values[name]["successful"]
    return figures.scaled({**summary, **summary["percentiles"]}, count, factor)


def _records(benchmark: dict[str, Any]) -> tuple[RequestRecord, ...]:
    """Single requests. First and last token are timed, the chunks between are not."""
    kept = benchmark.get("requests") or {}
    done, failed = kept.get("successful") or [], kept.get("errored") or []
    if len(done) < int(benchmark["metrics"]["request_totals"]["successful"]):
        return ()  # the file holds a sample only
    starts = [float(r["info"]["timings"]["request_start"]) for r in (*done, *failed)]
    begin = min(starts, default=0.0)
    return tuple(
        _record(request, start - begin, begin)
        for request, start in zip((*done, *failed), starts, strict=True)
    )


def _record(request: dict[str, Any], sent: float, begin: float) -> RequestRecord:
    timings = request["info"]["timings"]
    times = [timings.get(f"{which}_token_iteration") for which in ("first", "last")]
    error = str(request["info"].get("error") or "")
    input_len = int(request.get("prompt_tokens") or 0)
    return RequestRecord(
        request_id=str(request.get("request_id")),
        due_at_s=float(timings.get("targeted_start") or begin + sent) - begin,
        sent_at_s=sent,
        content_at_s=() if error else tuple(float(t) - begin for t in times if t is not None),
        prompt_len=input_len,
        input_len=input_len,
        output_len=int(request.get("output_tokens") or 0),
        usage=True,
        error_kind="engine" if error else "",
        error=error,
    )
