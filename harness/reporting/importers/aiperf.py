"""aiperf profile_export_aiperf.json (aggregates) and profile_export.jsonl (a line per request), 0.13.

By default it counts output tokens by re-tokenizing text; where the server sent usage, throughput is
recomputed from that. What it calls inter_token_latency is our TPOT, inter_chunk_latency our ICL.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import msgspec

from harness.reporting.importers import figures
from harness.schema import Imported, Metrics, RequestRecord

_RETOKENIZED = "its output tokens are re-tokenized text and the server sent no usage to correct them"


def recognises(data: dict[str, Any]) -> bool:
    """Whether this is such an object, of either file."""
    return "aiperf_version" in data or _is_request(data)


def convert(objects: list[dict[str, Any]], file: str) -> list[Imported]:
    """One measurement per file."""
    if _is_request(objects[0]):
        return [_from_requests(objects, file)]
    return [_from_aggregates(data, file) for data in objects]


def _is_request(data: dict[str, Any]) -> bool:
    return isinstance(data.get("metrics"), dict) and "request_start_ns" in (data.get("metadata") or {})


def _from_aggregates(data: dict[str, Any], file: str) -> Imported:
    config = data.get("input_config") or {}
    completed = int(_value(data, "request_count") or 0)
    by_server = bool((config.get("endpoint") or {}).get("use_server_token_count"))
    usage = (_value(data, "total_usage_prompt_tokens"), _value(data, "total_usage_completion_tokens"))
    own = (_value(data, "total_isl") or 0, _value(data, "total_output_tokens") or 0)
    corrected = not by_server and bool(usage[1])
    tokens = (int(usage[0] or own[0]), int(usage[1])) if usage[1] else (int(own[0]), int(own[1]))
    window_s = float(_value(data, "benchmark_duration") or 0)
    base = figures.totals((completed, int(_value(data, "error_request_count") or 0)), tokens, window_s)
    found = msgspec.structs.replace(
        base,
        ttft_s=_latency(data, "time_to_first_token", completed),
        tpot_s=None if corrected else _latency(data, "inter_token_latency", completed),
        icl_s=_latency(data, "inter_chunk_latency", completed),
        e2el_s=_latency(data, "request_latency", completed),
    )
    caveats = []
    if corrected:
        caveats.append("throughput recomputed from the server's usage; TPOT left out (re-tokenized tokens)")
    return Imported(
        tool="aiperf",
        tool_version=str(data.get("aiperf_version") or ""),
        file=file,
        variant=figures.stem(file),
        scenario=figures.scenario(_shape(config, found), *_load(config)),
        model=_model(config),
        date=str(data.get("start_time") or ""),
        metrics=found,
        incomparable="" if by_server or usage[1] else _RETOKENIZED,
        caveats=tuple(caveats),
    )


def _value(data: dict[str, Any], name: str) -> float | None:
    """Totals stand under `avg`."""
    value = (data.get(name) or {}).get("avg")
    return float(value) if isinstance(value, int | float) else None


def _latency(data: dict[str, Any], name: str, count: int) -> Any:
    values = dict(data.get(name) or {})
    return figures.scaled({**values, "mean": values.get("avg")}, count, 1e-3)


def _load(config: dict[str, Any]) -> tuple[object, object]:
    phases = [p for p in config.get("phases") or () if p.get("kind") != "warmup"]
    phase = phases[0] if phases else {}
    return phase.get("concurrency"), phase.get("rate") or phase.get("request_rate")


def _shape(config: dict[str, Any], found: Metrics) -> str:
    prompts = next((d.get("prompts") for d in config.get("datasets") or () if d.get("prompts")), None) or {}
    lengths = [(prompts.get(name) or {}).get("mean") for name in ("isl", "osl")]
    if all(isinstance(length, int | float) for length in lengths):
        return f"{lengths[0]:.0f}-{lengths[1]:.0f}"
    return figures.shape(found.total_input_tokens, found.total_output_tokens, found.completed)


def _model(config: dict[str, Any]) -> str:
    items = (config.get("models") or {}).get("items") or [{}]
    return str(items[0].get("name") or "")


def _from_requests(lines: list[dict[str, Any]], file: str) -> Imported:
    timed = [line for line in lines if line["metadata"].get("benchmark_phase") != "warmup"]
    begin = min(int(line["metadata"]["request_start_ns"]) for line in timed)
    records = tuple(_record(line, begin) for line in timed)
    found = figures.recomputed(records, chunks_known=True)
    by_usage = all(record.usage or record.error for record in records)
    return Imported(
        tool="aiperf",
        file=file,
        variant=figures.stem(file),
        scenario=figures.scenario(
            figures.shape(found.total_input_tokens, found.total_output_tokens, found.completed), None, None
        ),
        metrics=found,
        incomparable="" if by_usage else _RETOKENIZED,
        caveats=("throughput and TPOT recomputed from the server's usage",) if by_usage else (),
        records=records,
    )


def _record(line: dict[str, Any], begin: int) -> RequestRecord:
    values = {name: found.get("value") for name, found in line["metrics"].items()}
    sent = (int(line["metadata"]["request_start_ns"]) - begin) * 1e-9
    error = line.get("error")
    gaps = values.get("inter_chunk_latency") or []
    first = sent + float(values.get("time_to_first_token") or 0.0) * 1e-3
    usage = values.get("usage_completion_tokens")
    input_len = int(values.get("usage_prompt_tokens") or values.get("input_sequence_length") or 0)
    return RequestRecord(
        request_id=str(line["metadata"].get("x_request_id")),
        due_at_s=sent,
        sent_at_s=sent,
        content_at_s=() if error else tuple(accumulate((g * 1e-3 for g in gaps), initial=first)),
        prompt_len=input_len,
        input_len=input_len,
        output_len=int(usage or values.get("output_sequence_length") or 0),
        usage=usage is not None,
        error_kind="engine" if error else "",
        error=str(error or ""),
    )
