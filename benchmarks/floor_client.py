"""What Python costs at the least: an asyncio Protocol on uvloop that stamps reads and looks at nothing.

Same words and output as limit_client.c, without its judgement of the stamps.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
from time import monotonic_ns, perf_counter
from typing import Any

import uvloop


class Floor(asyncio.Protocol):
    """One connection that asks, stamps, and asks again."""

    num_left = 0
    num_done = 0
    num_requests = 0
    request = b""
    finished: asyncio.Future[None]

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def ask(self) -> None:
        if Floor.num_left:
            Floor.num_left -= 1
            self.stamps: list[int] = []
            self.reads: list[bytes] = []
            self.transport.write(Floor.request)

    def data_received(self, data: bytes) -> None:
        self.stamps.append(monotonic_ns())
        self.reads.append(data)
        if data.endswith(b"0\r\n\r\n"):
            Floor.num_done += 1
            if Floor.num_done == Floor.num_requests:
                Floor.finished.set_result(None)
            else:
                self.ask()


async def run(port: int, concurrency: int, num_requests: int, max_tokens: int) -> None:
    """Closed loop."""
    loop = asyncio.get_running_loop()
    Floor.num_left = Floor.num_requests = num_requests
    Floor.finished = loop.create_future()
    body = json.dumps(
        {"prompt": list(range(16)), "max_tokens": max_tokens, "stream": True}, separators=(",", ":")
    )
    Floor.request = (
        f"POST /v1/completions HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    made = [(await loop.create_connection(Floor, "127.0.0.1", port))[1] for _ in range(concurrency)]
    gc.freeze()
    gc.disable()
    before, begun = resource.getrusage(resource.RUSAGE_SELF), perf_counter()
    for connection in made:
        connection.ask()
    await Floor.finished
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        json.dumps({"cpu_s": cpu, "wall_s": perf_counter() - begun, "num_tokens": num_requests * max_tokens})
    )


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(*map(int, sys.argv[1:5])))
