"""One keep-alive HTTP/1.1 connection: bytes out, stamped reads in.

While a stream runs, each read costs one clock reading and two appends. Ends that every engine's server
writes are told by their last bytes; the reads are then handed over unparsed, and the connection is free.
Whatever looks otherwise is parsed on the spot to find its end.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from time import monotonic_ns
from typing import cast

from harness.client.response import Response
from harness.client.wire import FramingError, read_head
from harness.schema import ErrorKind

BATCH = 128
"""Reads handed over at a time: bounds memory and the length of one parse."""
_ALWAYS = 0
_LAST = b"\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_EVENT_END = b"\n\n\r\n"
_PLAIN_END = _EVENT_END + _LAST_CHUNK


class Connection(asyncio.Protocol):
    """Carries one request at a time.

    `on_done` is called when its answer is over, however it ended, `on_batch` when reads were deferred.
    """

    def __init__(
        self, on_idle_loss: Callable[[Connection], None], on_batch: Callable[[Response], None]
    ) -> None:
        self._on_idle_loss = on_idle_loss
        self._on_batch = on_batch
        self._on_done: Callable[[Connection], None] | None = None
        self._transport: asyncio.Transport | None = None
        self._fd = -1
        self._reads: list[bytes] = []
        self._stamps: list[int] = []
        self._enough = _ALWAYS
        """So many reads are looked at: every one until the head has come, or where counting tells the end."""
        self._keep_alive = False
        self.response = Response()
        self.open = False
        self._num_answers = 0
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
        self._enough = _ALWAYS
        self._on_done = on_done
        written = 0
        sent = self.last_ns = monotonic_ns()
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
        if len(reads) >= self._enough or not data.endswith(_EVENT_END):
            self._look(data)

    def _look(self, data: bytes) -> None:
        """Something may have ended."""
        if self._enough == _ALWAYS:
            if not self._is_plain_head(data):
                self._parse()
                return
            if data.find(_LAST) == len(data) - len(_LAST):
                return
        if self._ends_plainly(data):
            self._defer()
            self._settle(self._keep_alive)
        elif data.endswith(_LAST) or len(data) < len(_LAST):
            self._parse()
        elif len(self._reads) >= BATCH:
            self._defer()
            self._on_batch(self.response)

    def _is_plain_head(self, data: bytes) -> bool:
        """The first read holds the whole head of an ordinary stream: its end will show by itself."""
        end = data.find(_LAST)
        if self._on_done is None or len(self._reads) != 1 or self.response.started or end < 0:
            return False
        try:
            head = read_head(data[:end])
        except FramingError:
            return False
        if not (head.events and head.chunked):
            return False
        self._enough = BATCH
        self._keep_alive = head.keep_alive
        return True

    def _ends_plainly(self, data: bytes) -> bool:
        if data.endswith(_PLAIN_END):
            return True
        return data == _LAST_CHUNK and len(self._reads) > 1 and self._reads[-2].endswith(_EVENT_END)

    def _defer(self) -> None:
        self.last_ns = self._stamps[-1]
        self.response.defer(self._reads, self._stamps)
        self._reads, self._stamps = [], []

    def _parse(self) -> None:
        """Feed what was kept; settle when the answer is over."""
        self.last_ns = self._stamps[-1]
        reads, stamps = self._reads, self._stamps
        self._reads, self._stamps = [], []
        if self._on_done is None:
            self.abort()
            return
        self.response.feed(reads, stamps)
        self._enough = _ALWAYS if self.response.counted else BATCH
        if self.response.head is not None:
            self._keep_alive = self.response.head.keep_alive
        if self.response.done:
            self._settle(self.response.reusable)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop when either side has closed."""
        self.open = False
        self._fd = -1
        if self._on_done is None:
            self._on_idle_loss(self)
            return
        self.response.feed(self._reads, self._stamps)
        self._reads, self._stamps = [], []
        self.response.close(monotonic_ns(), str(exc) if exc else "")
        self._settle(False)

    def silent_ns(self, now: int) -> int:
        """How long nothing has come."""
        return now - (self._stamps[-1] if self._stamps else self.last_ns)

    def fail(self, kind: ErrorKind, why: str) -> None:
        """Give the running answer up with a label and close."""
        if self._reads:
            self._parse()
        if self._on_done is not None:
            self.response.fail(kind, why)
            self._settle(False)

    def abort(self) -> None:
        """Close at once."""
        self.open = False
        self._fd = -1
        if self._transport is not None:
            self._transport.abort()

    @property
    def was_stale(self) -> bool:
        """It had carried an answer before, and died without a byte of the next one."""
        lost = self.response.error_kind == "reset" and not self.response.started
        return lost and self._num_answers > 0

    def _settle(self, reusable: bool) -> None:
        on_done, self._on_done = self._on_done, None
        self._num_answers += reusable
        self._enough = _ALWAYS
        if not reusable:
            self.abort()
        if on_done is not None:
            on_done(self)
