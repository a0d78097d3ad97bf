"""InferenceX agg_*.json: one aggregate per file, latencies in seconds, throughput per GPU.

Keys are those of its result conversion (utils/process_result.py, later infx/results/fixed_sequence.py) from
2025 to 2026. tput_per_gpu counts input and output tokens. Output throughput is output_tput_per_gpu times the
GPUs it was divided by: all of one node, of a disaggregated deployment only those that decode. The parallel
sizes come from the environment that was asked for, not from the engine: labels are unproven.
*_intvty figures are 1 / TPOT of the same percentile and are not used.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from harness.reporting.importers import figures
from harness.schema import Distribution, Imported


def recognises(data: dict[str, Any]) -> bool:
    """Whether this is such an object."""
    return "tput_per_gpu" in data and "framework" in data


def convert(objects: list[dict[str, Any]], file: str) -> list[Imported]:
    """One measurement per object; the file may be a list of them."""
    return [_one(data, file) for data in objects]


def _one(data: dict[str, Any], file: str) -> Imported:
    num_gpus, num_decoding = _num_gpus(data)
    output = data.get("output_tput_per_gpu")
    both = float(data["tput_per_gpu"]) * num_gpus
    found = msgspec.structs.replace(
        figures.totals(_counts(data), (0, 0), 0.0),
        output_throughput=float(output or 0.0) * num_decoding,
        total_token_throughput=both,
        ttft_s=_seconds(data, "ttft"),
        tpot_s=_seconds(data, "tpot"),
        icl_s=_seconds(data, "itl"),
        e2el_s=_seconds(data, "e2el"),
    )
    caveats = ["TTFT may end at an empty role chunk"]
    if not any(_counts(data)):
        caveats.insert(0, "counts of requests and failures are not in the file")
    return Imported(
        tool="InferenceX",
        file=file,
        variant=_variant(data),
        scenario=figures.scenario(f"{data.get('isl')}-{data.get('osl')}", data.get("conc"), None),
        model=str(data.get("model") or data.get("infmax_model_prefix") or ""),
        num_gpus=num_gpus,
        metrics=found,
        incomparable="" if output else "only input + output tokens per GPU are given",
        caveats=tuple(caveats),
    )


def _num_gpus(data: dict[str, Any]) -> tuple[int, int]:
    """(all GPUs, those that output throughput was divided by); one node has TP x PP x PCP."""
    if str(data.get("is_multinode")).lower() == "true" or data.get("disagg") in (True, "true"):
        decoding = int(data.get("num_decode_gpu") or 0)
        everything = int(data.get("num_prefill_gpu") or 0) + decoding
        return everything, decoding or everything
    sizes = [int(data.get(name) or 1) for name in ("tp", "pp", "pcp_size")]
    return math.prod(sizes), math.prod(sizes)


def _counts(data: dict[str, Any]) -> tuple[int, int]:
    """Completed and failed requests, which files since 2026 tell; zeros before."""
    outcome = data.get("benchmark_outcome") or {}
    completed, requested = (int(outcome.get(name) or 0) for name in ("completed", "requested"))
    return completed, max(0, requested - completed)


def _variant(data: dict[str, Any]) -> str:
    """Framework, hardware and the sizes that were asked for."""
    words = [str(data.get("framework")), str(data.get("hw")), str(data.get("precision") or "")]
    for role, prefix in (("", ""), ("prefill", "prefill_"), ("decode", "decode_")):
        sizes = [f"{name}{data[prefix + name]}" for name in ("tp", "ep") if data.get(prefix + name)]
        words += [role, *sizes] if sizes else []
    if "true" in (str(data.get(f"{p}dp_attention")).lower() for p in ("", "decode_")):
        words.append("dpa")
    return "-".join(word for word in words if word)


def _seconds(data: dict[str, Any], name: str) -> Distribution | None:
    keys = ("mean", "median", "p90", "p95", "p99")
    return figures.scaled({key: data.get(f"{key}_{name}") for key in keys}, 1, 1.0)
