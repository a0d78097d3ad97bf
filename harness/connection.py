"""One keep-alive HTTP/1.1 connection: bytes out, stamped reads in.

While a stream runs, each read costs one clock reading and two appends; parsing waits for a suspected end
of the answer (or for BATCH reads, which bounds memory and the length of any pause).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from time import monotonic_ns
from typing import cast

from harness.response import Response
from harness.schema import ErrorKind

BATCH = 256
_SHORTEST_SAFE = 5
_LAST = b"\r\n\r\n"


class Connection(asyncio.Protocol):
    """Carries one request at a time; `on_done` is called when its answer is over, however it ended."""

    def __init__(self, on_idle_loss: Callable[[Connection], None]) -> None:
        self._on_idle_loss = on_idle_loss
        self._on_done: Callable[[Connection], None] | None = None
        self._transport: asyncio.Transport | None = None
        self._fd = -1
        self._reads: list[bytes] = []
        self._stamps: list[int] = []
        self._eager = True
        self.response = Response()
        self.open = False
        self.last_ns = 0
        """Last activity: sent, or the last read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.Transport, transport)
        if transport.get_extra_info("sslcontext") is None:
            self._fd = transport.get_extra_info("socket").fileno()
        self.open = True
        self.last_ns = monotonic_ns()

    def send(self, payload: bytes, on_done: Callable[[Connection], None]) -> int:
        """Send a whole request now and return the time in ns just before its first byte left."""
        assert self._transport is not None and self._on_done is None
        self.response = Response()
        self._eager = True
        self._on_done = on_done
        sent = monotonic_ns()
        self.last_ns = sent
        written = 0
        if self._fd >= 0:
            # Straight to the socket: the transport would hold the bytes until the loop's next turn.
            with suppress(BlockingIOError, InterruptedError, ConnectionError):
                written = os.write(self._fd, payload)
        if written < len(payload):
            self._transport.write(payload[written:])
        return sent

    def data_received(self, data: bytes) -> None:
        """Called by the loop: the hot path."""
        self._stamps.append(monotonic_ns())
        reads = self._reads
        reads.append(data)
        if self._eager or data.endswith(_LAST) or len(data) < _SHORTEST_SAFE or len(reads) >= BATCH:
            self._parse()

    def _parse(self) -> None:
        """Feed what was kept; settle when the answer is over."""
        if self._on_done is None:
            self._reads.clear()
            self._stamps.clear()
            self.abort()
            return
        self.last_ns = self._stamps[-1]
        self.response.feed(self._reads, self._stamps)
        self._reads.clear()
        self._stamps.clear()
        self._eager = self.response.counted
        if self.response.done:
            self._settle()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop when either side has closed."""
        self.open = False
        self._fd = -1
        if self._on_done is None:
            self._on_idle_loss(self)
            return
        if self._reads:
            self.response.feed(self._reads, self._stamps)
            self._reads.clear()
            self._stamps.clear()
        self.response.close(monotonic_ns(), str(exc) if exc else "")
        self._settle()

    def silent_ns(self, now: int) -> int:
        """How long nothing has come."""
        return now - (self._stamps[-1] if self._stamps else self.last_ns)

    def fail(self, kind: ErrorKind, why: str) -> None:
        """Give the running answer up with a label and close."""
        if self._reads:
            self._parse()
        if self._on_done is not None:
            self.response.fail(kind, why)
            self._settle()

    def abort(self) -> None:
        """Close at once."""
        self.open = False
        self._fd = -1
        if self._transport is not None:
            self._transport.abort()

    def _settle(self) -> None:
        on_done, self._on_done = self._on_done, None
        if not self.response.reusable:
            self.abort()
        if on_done is not None:
            on_done(self)
