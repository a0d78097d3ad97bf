"""What aiohttp costs at the least: sessions on uvloop that stamp each read and look at nothing.

Same words and output as limit_client.c. Stamps are held against the server's, which stand in the text,
after the clock has stopped.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import resource
import sys
from itertools import accumulate, pairwise
from time import monotonic, monotonic_ns
from typing import NamedTuple

import aiohttp
import uvloop

from harness.client.window import percentile

_STAMPS = re.compile(rb'"text":" (?:(\d+):)?(\d+)')


class Answer(NamedTuple):
    """What came, and when (ns)."""

    sent_ns: int
    reads: list[bytes]
    stamps: list[int]


async def ask(session: aiohttp.ClientSession, url: str, body: bytes) -> Answer:
    """One request."""
    reads: list[bytes] = []
    stamps: list[int] = []
    sent = monotonic_ns()
    async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as response:
        async for data in response.content.iter_any():
            stamps.append(monotonic_ns())
            reads.append(data)
    return Answer(sent, reads, stamps)


async def run(port: int, concurrency: int, num: int, max_tokens: int, rate: float) -> None:
    """Closed loop, or a constant rate when `rate` is above 0."""
    url = f"http://127.0.0.1:{port}/v1/completions"
    asked = {"max_tokens": max_tokens, "stream": True}
    bodies = [json.dumps({"prompt": [*range(15), i], **asked}, separators=(",", ":")) for i in range(num)]
    answers: list[Answer] = []
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(None)) as session:
        left = iter(bodies)

        async def stream() -> None:
            for body in left:
                answers.append(await ask(session, url, body.encode()))

        async def send_at(due: float, body: str) -> None:
            await asyncio.sleep(due - monotonic())
            answers.append(await ask(session, url, body.encode()))

        gc.freeze()
        gc.disable()
        before, begun = resource.getrusage(resource.RUSAGE_SELF), monotonic()
        if rate:
            await asyncio.gather(*(send_at(begun + i / rate, body) for i, body in enumerate(bodies)))
        else:
            await asyncio.gather(*(stream() for _ in range(concurrency)))
        after, wall = resource.getrusage(resource.RUSAGE_SELF), monotonic() - begun
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"cpu_s": cpu, "wall_s": wall, "num_tokens": num * max_tokens} | judged(answers)))


def judged(answers: list[Answer]) -> dict[str, list[float]]:
    """TTFT and gap errors in ms (p50, p99)."""
    ttft: list[float] = []
    gaps: list[float] = []
    for answer in answers:
        ends = iter(zip(accumulate(map(len, answer.reads)), answer.stamps, strict=True))
        end, stamp = next(ends)
        times: list[tuple[int, int]] = []
        for event in _STAMPS.finditer(b"".join(answer.reads)):
            while end < event.end():
                end, stamp = next(ends)
            if event[1]:
                ttft.append((stamp - answer.sent_ns - int(event[2]) + int(event[1])) / 1e6)
            times.append((stamp, int(event[2])))
        gaps += [abs((b[0] - a[0]) - (b[1] - a[1])) / 1e6 for a, b in pairwise(times)]
    ttft.sort()
    gaps.sort()
    return {
        "ttft_error_ms": [percentile(ttft, 50), percentile(ttft, 99)],
        "itl_error_ms": [percentile(gaps, 50), percentile(gaps, 99)],
    }


if __name__ == "__main__":
    port, concurrency, num, max_tokens = map(int, sys.argv[1:5])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(port, concurrency, num, max_tokens, float(sys.argv[5])))
