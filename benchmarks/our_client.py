"""Our client as the benchmark runs it: same words and output as limit_client.c, records kept in memory."""

from __future__ import annotations

import json
import sys
from time import monotonic

from harness import client
from harness.client import pacing
from harness.client.window import percentile
from harness.schema import Load, Request, RequestRecord


def main() -> None:
    """PORT CONCURRENCY NUM_REQUESTS MAX_TOKENS RATE [NUM_WORKERS]; RATE 0 = closed loop."""
    port, concurrency, num, max_tokens = map(int, sys.argv[1:5])
    rate = float(sys.argv[5])
    load = Load(request_rate=rate, arrival="constant") if rate else Load(max_concurrency=concurrency)
    due = pacing.due_times(load, num, 0)
    requests = [
        Request(
            request_id=f"r{i}", prompt_token_ids=(*range(1, 16), i), max_tokens=max_tokens, due_at_s=due[i]
        )
        for i in range(num)
    ]
    target = client.Target(
        base_url=f"http://127.0.0.1:{port}", model="known", num_workers=int((*sys.argv, "1")[6])
    )
    records: list[RequestRecord] = []
    began = monotonic()
    stats = client.fire(target, requests, load, records.append)
    result = {
        "cpu_s": stats.cpu_s,
        "whole_cpu_s": stats.cpu_s + stats.later_cpu_s,
        "wall_s": stats.duration_s,
        "fire_s": monotonic() - began,
    } | judged(records)
    if rate:
        result["late_ms"] = [stats.late_p50_s * 1e3, stats.late_p99_s * 1e3]
    print(json.dumps(result))


def judged(records: list[RequestRecord]) -> dict[str, object]:
    """TTFT and gap errors in ms (p50, p99) against the stamps that the server put into the text."""
    ttft: list[float] = []
    gaps: list[float] = []
    for record in records:
        words = record.text.split()
        received, first = map(int, words[0].split(":"))
        sends = [first * 1e-9, *(int(word) * 1e-9 for word in words[1:])]
        seen = record.content_at_s
        ttft.append((seen[0] - record.sent_at_s - (first - received) * 1e-9) * 1e3)
        gaps += [abs((seen[i] - seen[i - 1]) - (sends[i] - sends[i - 1])) * 1e3 for i in range(1, len(seen))]
    ttft.sort()
    gaps.sort()
    return {
        "num_tokens": sum(r.output_len for r in records),
        "num_failed": sum(1 for r in records if r.error),
        "ttft_error_ms": [percentile(ttft, 50), percentile(ttft, 99)],
        "itl_error_ms": [percentile(gaps, 50), percentile(gaps, 99)],
    }


if __name__ == "__main__":
    main()
