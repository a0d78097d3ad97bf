"""What kernel benches print, as KernelTiming: MORI's, vLLM's benchmark_moe's, ep-check's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import InputError
from harness.schema import KernelTiming

_ROUND = re.compile(
    r"^Round (\d+) duration\(us\) \[([^\]]*)\] bandwidth\(GB/s\) \[([^\]]*)\] "
    r"avg bytes\(MB\) (\S+) lat ([\d.]+) bw ([\d.]+) / ([\d.]+)"
)
_BENCH = re.compile(r"max_tokens_per_rank: (\d+), dispatch_dtype: (\S+)")
_SECTION = re.compile(r"^\s*(Dispatch|Combine) result", re.IGNORECASE)
_INTERNODE = re.compile(
    r"^\s*(dispatch|combine) (duration|(rdma|xgmi|ll) bandwidth) \[[^\]]*\] avg ([\d.]+) (µs|us|GB/s)",
    re.IGNORECASE,
)
_BATCH = re.compile(r"^Batch size: (\d+)")
_KERNEL = re.compile(r"^Kernel time: ([\d.]+) us")
_PLAIN = re.compile(r"(?i)^\W*(dispatch|combine)\b[^\d]*([\d.]+)\s*(us|µs|ms)\b(?:\D*([\d.]+)\s*GB/s)?")


def read(path: Path) -> tuple[KernelTiming, ...]:
    """Timings of a bench's output file, whichever bench it was. Raises InputError when none is found."""
    try:
        text = path.read_text(errors="replace")
    except OSError as reason:
        raise InputError(f"Cannot read {path}: {reason.strerror}; give a bench's output file.") from None
    found = tuple(parse(text))
    if not found:
        raise InputError(
            f"{path} holds no timing this knows: MORI_PERF_OUT JSON lines, MORI's or benchmark_moe's text, "
            "or ep-check's --out file."
        )
    return found


def parse(text: str) -> Iterator[KernelTiming]:
    """Timings in order of appearance."""
    if text.lstrip().startswith("{"):
        yield from _from_json(text)
        return
    yield from mori_text(text)
    yield from benchmark_moe(text)


def mori_jsonl(line: dict[str, Any]) -> Iterator[KernelTiming]:
    """One line of MORI_PERF_OUT: intra_ep or internode_ep; the zero-copy flag goes into the note."""
    params, metrics = line["params"], line["metrics"]
    for kernel, dtype in (("dispatch", params.get("dtype")), ("combine", params.get("combine_dtype"))):
        total = metrics.get(f"{kernel}_bw_gbps", metrics.get(f"{kernel}_xgmi_bw_gbps"))
        yield KernelTiming(
            source=f"mori-jsonl {line.get('category', '')}".strip(),
            kernel=kernel,
            tokens=int(params.get("max_tokens", 0)),
            world_size=int(params.get("world_size", 0)),
            hidden=int(params.get("hidden_dim", 0)),
            dtype=str(dtype or ""),
            latency_us=metrics.get(f"{kernel}_lat_us"),
            gbps=total,
            rdma_gbps=metrics.get(f"{kernel}_rdma_bw_gbps"),
            note="zero-copy" if params.get("zero_copy") else "",
        )


def mori_text(text: str) -> Iterator[KernelTiming]:
    """MORI's printed rounds (mean over ranks; the first of "bw A / B") and internode averages."""
    tokens, dtype, kernel = 0, "", ""
    for line in text.splitlines():
        if match := _BENCH.search(line):
            tokens, dtype = int(match[1]), match[2]
        elif match := _SECTION.match(line):
            kernel = match[1].lower()
        elif line.lstrip().startswith("End-to-end"):
            kernel = ""
        elif kernel and (match := _ROUND.match(line.strip())):
            ranks = len(match[2].replace(",", " ").split())
            yield KernelTiming(
                source="mori-text",
                kernel=kernel,
                tokens=tokens,
                world_size=ranks,
                dtype=dtype,
                latency_us=float(match[5]),
                gbps=float(match[6]),
                note=f"round {match[1]}",
            )
    yield from _internode(text)


def benchmark_moe(text: str) -> Iterator[KernelTiming]:
    """vLLM's benchmark_moe.py, and the plain "Dispatch: X us, Y GB/s" lines of EP kernel tests."""
    batch = 0
    for line in text.splitlines():
        if match := _BATCH.match(line):
            batch = int(match[1])
        elif match := _KERNEL.match(line):
            yield KernelTiming(
                source="vllm-benchmark-moe", kernel="moe", tokens=batch, latency_us=float(match[1])
            )
        elif (match := _PLAIN.match(line)) and "result" not in line.lower() and not _INTERNODE.match(line):
            latency_us = float(match[2]) * (1000 if match[3].lower() == "ms" else 1)
            gbps = float(match[4]) if match[4] else None
            yield KernelTiming(
                source="ep-kernel-test", kernel=match[1].lower(), latency_us=latency_us, gbps=gbps
            )


def ep_check(result: dict[str, Any]) -> Iterator[KernelTiming]:
    """An ep-check result; bandwidth counts bytes that cross ranks only."""
    config, environment = result["config"], result["environment"]
    for row in result["timings"]:
        for kernel in ("dispatch", "combine"):
            yield KernelTiming(
                source=f"ep-check {result['backend']}",
                kernel=kernel,
                tokens=row["tokens"],
                world_size=environment["world_size"],
                hidden=config["hidden"],
                dtype=config["dispatch_dtype"] if kernel == "dispatch" else "bf16",
                latency_us=row[f"{kernel}_us"]["median"],
                gbps=row[f"{kernel}_gbps"],
                rdma_gbps=row[f"{kernel}_rdma_gbps"] or None,
                note=f"{row['routing']}; by MORI's convention {row[f'{kernel}_received_rows_gbps']:.2f} GB/s",
            )


def _from_json(text: str) -> Iterator[KernelTiming]:
    try:
        whole = msgspec.json.decode(text)
        records = [whole]
    except msgspec.DecodeError:
        records = [_line(line) for line in text.splitlines() if line.strip()]
    for record in records:
        if "metrics" in record and "params" in record:
            yield from mori_jsonl(record)
        elif "timings" in record:
            yield from ep_check(record)


def _line(line: str) -> dict[str, Any]:
    try:
        record = msgspec.json.decode(line)
    except msgspec.DecodeError:
        return {}  # a line cut short by a killed bench
    return record if isinstance(record, dict) else {}


def _internode(text: str) -> Iterator[KernelTiming]:
    found: dict[str, dict[str, float]] = {}
    for line in text.splitlines():
        if match := _INTERNODE.match(line):
            what = (match[3] or "duration").lower()
            found.setdefault(match[1].lower(), {})[what] = float(match[4])
    for kernel, values in found.items():
        yield KernelTiming(
            source="mori-text internode",
            kernel=kernel,
            latency_us=values.get("duration"),
            gbps=values.get("xgmi", values.get("ll")),
            rdma_gbps=values.get("rdma"),
        )
