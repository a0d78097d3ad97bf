"""Size: 2,000 streams at once, 1,000 requests a second, 100,000 requests in one trial, on few cores.

usage: python -m benchmarks.scale [NAME ...]

Against the C server of known timing. Memory is read in this process when a tenth of the requests is done
and at the end; records are counted and dropped, as a run that writes them to disk does. Needs gcc.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from benchmarks.our_client import judged
from harness import client
from harness.client import pacing
from harness.schema import Load, Noun, Request, RequestRecord

HERE = Path(__file__).parent


class Case(Noun):
    """One demonstration."""

    first_us: int
    gap_us: int
    num_requests: int
    num_tokens: int
    load: Load
    num_workers: int = 1
    keep: int = 5000
    """Records that are kept for the errors."""


CASES = {
    "streams": Case(
        first_us=500_000,
        gap_us=100_000,
        num_requests=4000,
        num_tokens=50,
        load=Load(max_concurrency=2000),
        num_workers=2,
    ),
    "rate": Case(
        first_us=50_000,
        gap_us=10_000,
        num_requests=10_000,
        num_tokens=8,
        load=Load(request_rate=1000, arrival="poisson"),
        num_workers=2,
    ),
    "requests": Case(
        first_us=0, gap_us=0, num_requests=100_000, num_tokens=8, load=Load(max_concurrency=64), keep=1000
    ),
}


def run(name: str, case: Case, server: Path) -> dict[str, object]:
    """Fire one case and say what it took."""
    due = pacing.due_times(case.load, case.num_requests, 0)
    prompt = tuple(range(16))
    requests = [
        Request(request_id=f"r{i}", prompt_token_ids=prompt, max_tokens=case.num_tokens, due_at_s=due[i])
        for i in range(case.num_requests)
    ]
    process = subprocess.Popen(
        [server, str(case.first_us), str(case.gap_us)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    kept: list[RequestRecord] = []
    memory: dict[int, float] = {}
    counts = {"done": 0, "failed": 0, "tokens": 0}

    def on_record(record: RequestRecord) -> None:
        counts["done"] += 1
        counts["failed"] += bool(record.error)
        counts["tokens"] += record.output_len
        if len(kept) < case.keep:
            kept.append(record)
        if counts["done"] in (case.num_requests // 10, case.num_requests):
            memory[counts["done"]] = psutil.Process().memory_info().rss / 2**20

    target = client.Target(
        base_url=f"http://127.0.0.1:{int(process.stdout.readline())}",
        model="known",
        num_workers=case.num_workers,
    )
    stats = client.fire(target, requests, case.load, on_record)
    process.communicate()
    return {
        "case": name,
        **counts,
        "wall_s": round(stats.duration_s, 2),
        "requests_per_s": round(counts["done"] / stats.duration_s, 1),
        "cpu_share": round(stats.cpu_share, 3),
        "in_flight_max": stats.num_in_flight_max,
        "late_ms": [round(stats.late_p50_s * 1e3, 3), round(stats.late_p99_s * 1e3, 3)],
        "memory_mb_at": {k: round(v, 1) for k, v in memory.items()},
        **{k: v for k, v in judged([r for r in kept if not r.error]).items() if k.endswith("_ms")},
    }


def main() -> None:
    """Run the cases named, or all."""
    with tempfile.TemporaryDirectory() as folder:
        server = Path(folder) / "known_server"
        subprocess.run(["gcc", "-O2", "-o", server, HERE / "known_server.c"], check=True)
        for name in sys.argv[1:] or CASES:
            print(json.dumps(run(name, CASES[name], server)), flush=True)


if __name__ == "__main__":
    main()
