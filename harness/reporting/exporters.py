"""`export RUN --format vllm-bench`: trials in the JSON that `vllm bench serve --save-detailed` writes.

For tools that read that. Times are ours (TTFT ends at the first content), gaps are between content chunks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from harness import store
from harness.errors import InputError
from harness.numbers.columns import columns
from harness.numbers.metrics import metrics
from harness.schema import Distribution, Launch, Metrics, RequestRecord, TrialResult

_PERCENTILES = ("p50", "p90", "p95", "p99")


def vllm_bench(result: TrialResult, records: Iterable[RequestRecord], model: str) -> dict[str, Any]:
    """The object of one trial."""
    kept = list(records)
    found = metrics(kept)
    load = result.trial.load
    return {
        "date": result.started_at,
        "endpoint_type": "openai",
        "backend": result.trial.variant,
        "label": result.trial.variant,
        "model_id": model,
        "tokenizer_id": model,
        "num_prompts": len(kept),
        "request_rate": load.request_rate or "inf",
        "burstiness": load.burstiness,
        "max_concurrency": load.max_concurrency,
        **_totals(found),
        **_latencies("ttft", found.ttft_s),
        **_latencies("tpot", found.tpot_s),
        **_latencies("itl", found.icl_s),
        **_latencies("e2el", found.e2el_s),
        **_details(kept),
    }


FORMATS: dict[str, Callable[[TrialResult, Iterable[RequestRecord], str], dict[str, Any]]]
USUAL = "vllm-bench"
FORMATS = {USUAL: vllm_bench}
TABLES = ("csv", "parquet")
"""Formats of harness.frames: a file per table."""


def export(run: Path, target: Path, form: str = USUAL) -> list[Path]:
    """Writes a file per finished trial: <variant>-<in>-<out>-<load>-r<restart>.json.

    Raises InputError for an unknown format or a run without finished trials, StoreError on bad files.
    """
    convert = FORMATS.get(form)
    if convert is None:
        raise InputError(f"There is no export format {form!r}; there is: {', '.join([*FORMATS, *TABLES])}.")
    written = []
    for path in sorted(run.glob("*/r*/*/trial.json")):
        result = store.read(path, TrialResult)
        if result.status != "done":
            continue
        trial = result.trial
        shape = re.sub(r"^\D+-(?=\d+-\d+$)", "", trial.workload.label)  # text-100-20 -> 100-20
        name = f"{trial.variant}-{shape}-{trial.load.label}-r{trial.restart}.json"
        exported = convert(result, store.records(path.parent), _model(path))
        store.write_text(target / name, msgspec.json.encode(exported).decode() + "\n")
        written.append(target / name)
    if not written:
        raise InputError(f"{run} has no finished trial to export.")
    return written


def _model(trial_path: Path) -> str:
    launch = trial_path.parent.parent / "launch.json"
    return store.read(launch, Launch).served_model_name if launch.exists() else ""


def _totals(found: Metrics) -> dict[str, Any]:
    return {
        "duration": found.window_s,
        "completed": found.completed,
        "failed": found.failed,
        "total_input_tokens": found.total_input_tokens,
        "total_output_tokens": found.total_output_tokens,
        "request_throughput": found.request_throughput,
        "request_goodput": found.request_goodput,
        "output_throughput": found.output_throughput,
        "total_token_throughput": found.total_token_throughput,
    }


def _latencies(name: str, values: Distribution | None) -> dict[str, float]:
    if values is None:
        return {}
    found = {f"mean_{name}_ms": values.mean, f"median_{name}_ms": values.p50}
    found |= {f"{percentile}_{name}_ms": getattr(values, percentile) for percentile in _PERCENTILES}
    return {key: value * 1e3 for key, value in found.items() if value is not None}


def _details(records: list[RequestRecord]) -> dict[str, Any]:
    return {
        "input_lens": [r.input_len or r.prompt_len for r in records],
        "output_lens": [0 if r.error else r.output_len for r in records],
        "ttfts": np.nan_to_num(columns(records).ttft_s).tolist(),
        "itls": [[b - a for a, b in zip(r.content_at_s, r.content_at_s[1:], strict=False)] for r in records],
        "start_times": [r.sent_at_s for r in records],
        "generated_texts": [r.text for r in records],
        "errors": [r.error for r in records],
    }
