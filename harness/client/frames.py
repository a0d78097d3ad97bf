"""Messages between the client and its worker processes: length, then msgpack."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec

from harness.client.shard import Result
from harness.client.window import Pulse
from harness.schema import Noun, RequestRecord


class Ready(Noun, tag="ready"):
    """Worker: connections open, bodies built."""


class Record(Noun, tag="record"):
    """Worker: a request ended."""

    record: RequestRecord


class Finished(Noun, tag="finished"):
    """Worker: the share is over."""

    result: Result


class Refused(Noun, tag="refused"):
    """Worker: the job cannot be done."""

    error: str
    user_error: bool = False


Message = Ready | Record | Pulse | Finished | Refused
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Message).decode


def frame(message: Any) -> bytes:
    """Bytes of one message."""
    content = _encode(message)
    return len(content).to_bytes(4, "big") + content


class Inbox:
    """Cuts a byte stream back into messages."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Messages completed by these bytes."""
        self._held += data
        while len(self._held) >= 4:
            end = 4 + int.from_bytes(self._held[:4], "big")
            if len(self._held) < end:
                return
            yield _decode(bytes(self._held[4:end]))
            del self._held[:end]


class Outbox:
    """Sends messages without ever making the event loop wait for the reader."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._held: deque[bytes] = deque()
        os.set_blocking(fd, False)

    def send(self, message: Message) -> None:
        """Send now, or as soon as the pipe has room."""
        data = frame(message)
        if not self._held:
            data = data[self._write(data) :]
            if data:
                asyncio.get_running_loop().add_writer(self._fd, self._on_writable)
        if data:
            self._held.append(data)

    def flush(self) -> None:
        """Wait until everything is sent; call after the loop has ended."""
        os.set_blocking(self._fd, True)
        while self._held:
            data = self._held.popleft()
            while data:
                data = data[os.write(self._fd, data) :]

    def _on_writable(self) -> None:
        while self._held:
            left = self._held[0][self._write(self._held[0]) :]
            if left:
                self._held[0] = left
                return
            self._held.popleft()
        asyncio.get_running_loop().remove_writer(self._fd)

    def _write(self, data: bytes) -> int:
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0
