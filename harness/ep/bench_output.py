"""What kernel benches print, as KernelTiming: MORI's, vLLM's benchmark_moe's, ep-check's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from harness.ep import mori_text
from harness.ep.timing import KernelTiming
from harness.errors import InputError

_BATCH = re.compile(r"^Batch size: (\d+)")
_KERNEL = re.compile(r"(?:^|, )Kernel time: ([\d.]+) us")
_CONVENTIONS = {
    "intra_ep": "best round, mean of ranks",
    "internode_ep": "GB/s of the best rank and round, latency the mean",
}
"""What MORI's benches put into their records (_emit_intra_perf, _emit_internode_perf at 624002c)."""


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
    yield from mori_text.one_node(text)
    yield from mori_text.several_nodes(text)
    yield from benchmark_moe(text)


def mori_jsonl(line: dict[str, Any]) -> Iterator[KernelTiming]:
    """One line of MORI_PERF_OUT, intra_ep or internode_ep; its note: what is averaged, how combine ran."""
    params, metrics = line["params"], line["metrics"]
    settings = [params.get("kernel_type", ""), _CONVENTIONS.get(line.get("category", ""), "")]
    of_combine = ["zero-copy"] if params.get("zero_copy") else []
    of_combine += [params["quant_type"]] if params.get("quant_type", "none") != "none" else []
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
            note="; ".join(filter(None, settings + (of_combine if kernel == "combine" else []))),
        )


def benchmark_moe(text: str) -> Iterator[KernelTiming]:
    """vLLM's benchmarks/kernels/benchmark_moe.py: one batch size and one kernel time after the other."""
    batch = 0
    for line in text.splitlines():
        if match := _BATCH.match(line):
            batch = int(match[1])
        if match := _KERNEL.search(line):
            latency_us = float(match[1])
            yield KernelTiming(source="vllm-benchmark-moe", kernel="moe", tokens=batch, latency_us=latency_us)


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
