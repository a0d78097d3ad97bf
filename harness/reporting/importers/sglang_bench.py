"""SGLang `bench_serving` JSON lines (0.5.15 to 0.5.23), a line per run.

Its OpenAI backends ask for no usage, so total_output_tokens are the *requested* tokens; throughput and TPOT
then compare with nothing. Its native backend takes the server's counts. ITL of the OpenAI backends are gaps
between chunks, those of the native one are divided by new tokens: left out.
"""

from __future__ import annotations

from typing import Any

import msgspec

from harness.reporting.importers import figures
from harness.schema import Imported


def recognises(data: dict[str, Any]) -> bool:
    """Whether this is such an object."""
    return "total_output_tokens_retokenized" in data or "total_output_tokens_retokenised" in data


def convert(objects: list[dict[str, Any]], file: str) -> list[Imported]:
    """One measurement per line."""
    return [_one(data, file) for data in objects]


def _one(data: dict[str, Any], file: str) -> Imported:
    completed = int(data["completed"])
    tokens = (int(data["total_input_tokens"]), int(data["total_output_tokens"]))
    backend = str(data.get("backend") or "")
    failed = sum(bool(error) for error in data.get("errors") or ())
    requested = backend != "sglang"
    found = figures.totals((completed, failed), tokens, float(data["duration"]))
    found = msgspec.structs.replace(
        found,
        ttft_s=figures.flat(data, "ttft", completed),
        tpot_s=None if requested else figures.flat(data, "tpot", completed),
        icl_s=figures.flat(data, "itl", completed) if requested else None,
        e2el_s=figures.flat(data, "e2e_latency", completed),
    )
    caveats = [] if "errors" in data else ["the file does not say how many requests failed"]
    if requested:
        caveats.append("TPOT left out: it divides by requested tokens")
    if "sglang" in backend:
        caveats.append("the timed window includes a GET /server_info, which makes throughput look lower")
    return Imported(
        tool="sglang bench_serving",
        file=file,
        variant=str(data.get("tag") or backend or "unnamed"),
        scenario=figures.scenario(_shape(data), data.get("max_concurrency"), data.get("request_rate")),
        metrics=found,
        incomparable=_requested(data) if requested else "",
        caveats=tuple(caveats),
    )


def _requested(data: dict[str, Any]) -> str:
    again = data.get("total_output_tokens_retokenized") or data.get("total_output_tokens_retokenised")
    return (
        f"its {data['total_output_tokens']} output tokens are those requested, not those received "
        f"(re-tokenized text: {again})"
    )


def _shape(data: dict[str, Any]) -> str:
    name = str(data.get("dataset_name") or "unknown")
    if name.startswith("random"):
        return f"{data.get('random_input_len')}-{data.get('random_output_len')}"
    return name
