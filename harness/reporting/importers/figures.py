"""Figures of foreign files -> Distribution and Metrics. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from harness.numbers.metrics import metrics
from harness.schema import Distribution, Metrics, RequestRecord

_FIELDS = {
    "mean": "mean",
    "median": "p50",
    "p50": "p50",
    "p90": "p90",
    "p95": "p95",
    "p99": "p99",
    "max": "max",
}


def flat(data: Mapping[str, Any], name: str, count: int) -> Distribution | None:
    """From keys such as mean_ttft_ms, p99_ttft_ms (vLLM, SGLang)."""
    return scaled({key: data.get(f"{key}_{name}_ms") for key in _FIELDS}, count, 1e-3)


def scaled(values: Mapping[str, Any], count: int, factor: float) -> Distribution | None:
    """From mean, median or p50, p90, p95, p99, max in units of `factor` seconds; None without any."""
    found: dict[str, float] = {}
    for key, field in _FIELDS.items():
        value = values.get(key)
        if isinstance(value, int | float) and math.isfinite(value):
            found.setdefault(field, float(value) * factor)
    if not found or not count:
        return None
    return Distribution(
        count=count,
        mean=found.get("mean"),
        p50=found.get("p50"),
        p90=found.get("p90"),
        p95=found.get("p95"),
        p99=found.get("p99"),
        max=found.get("max"),
    )


def totals(counts: tuple[int, int], tokens: tuple[int, int], window_s: float) -> Metrics:
    """Metrics of (completed, failed) requests and (input, output) tokens over the window; no latencies."""
    per_s = 1.0 / window_s if window_s > 0 else 0.0
    return Metrics(
        completed=counts[0],
        failed=counts[1],
        window_s=window_s,
        total_input_tokens=tokens[0],
        total_output_tokens=tokens[1],
        request_throughput=counts[0] * per_s,
        output_throughput=tokens[1] * per_s,
        total_token_throughput=sum(tokens) * per_s,
    )


def recomputed(records: Sequence[RequestRecord], *, chunks_known: bool) -> Metrics:
    """Metrics from single requests; without chunk times there are no gaps to speak of."""
    found = metrics(records)
    return found if chunks_known else msgspec.structs.replace(found, icl_s=None)


def scenario(shape: str, concurrency: object, rate: object) -> str:
    """shape@load: 1000-2000@c8, sharegpt@10rps."""
    parts = []
    if isinstance(rate, int | float) and math.isfinite(rate):
        parts.append(f"{rate:g}rps")
    if isinstance(concurrency, int | float) and concurrency:
        parts.append(f"c{concurrency:g}")
    return f"{shape}@{'-'.join(parts) or 'all-at-once'}"


def shape(input_tokens: float, output_tokens: float, requests: int) -> str:
    """Mean input-output length, for files that do not name their shape."""
    if not requests:
        return "unknown"
    return f"{input_tokens / requests:.0f}-{output_tokens / requests:.0f}"


def stem(file: str) -> str:
    """A file's name without its ending: the variant, where nothing else names one."""
    return file.rpartition(".")[0] or file
