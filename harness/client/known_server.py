"""A server whose timing and faults are known: for the client's own error budget and for tests.

It speaks the OpenAI completions and chat endpoints over SSE. A Script says when tokens leave and what goes
wrong. Every token's text is the time it was handed to the kernel, as " <ns>" on the monotonic clock that
the client reads too; the first token's text is " <received ns>:<sent ns>". So a record carries both sides
of each measurement. Never part of a comparison of engines.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import socket
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic_ns
from typing import Any, Literal

import msgspec
import uvloop

from harness.client.alarm import Alarm
from harness.errors import MachineError
from harness.schema import Noun

Fault = Literal[
    "",
    "http",
    "reset",
    "half_close",
    "no_answer",
    "stall",
    "truncated",
    "error_event",
    "garbage",
    "close_at_once",
]


class Script(Noun):
    """What the server does with each request; may be sent per request as the body field `script`."""

    first_token_s: float = 0.05
    """Request received -> first token."""
    token_s: float = 0.01
    """Between tokens; 0 = all at once."""
    num_tokens: int = 0
    """Tokens to generate; 0 = the request's max_tokens."""
    tokens_per_chunk: int = 1
    usage: bool = True
    token_ids: bool = True
    done: bool = True
    """Send [DONE]."""
    role_chunk: bool = True
    """Chat: send an empty role delta at once."""
    slots: int = 0
    """Streams served at once, the others wait in order; 0 = no limit. Capacity = slots / time of a stream."""
    fault: Fault = ""
    faults: tuple[Fault, ...] = ()
    """When given, a request whose first prompt id is i meets faults[i] (none beyond the end)."""
    fault_after: int = 2
    """Tokens sent before the fault happens."""
    status: int = 429
    """Of fault http."""
    retry_after: str = "3"


class _Stream:
    """One answer in progress."""

    __slots__ = ("chat", "connection", "due_ns", "num", "prompt_len", "received_ns", "script", "sent")

    def __init__(self, connection: _Peer, fields: dict[str, Any], script: Script, received_ns: int) -> None:
        self.connection = connection
        self.script = script
        self.chat = "messages" in fields
        prompt = fields.get("prompt", ())
        self.prompt_len = len(prompt) if isinstance(prompt, list) else 1
        self.num = script.num_tokens or int(fields.get("max_tokens", 16))
        self.sent = 0
        self.received_ns = received_ns
        self.due_ns = received_ns + int(script.first_token_s * 1e9)

    def __lt__(self, other: _Stream) -> bool:
        return self.due_ns < other.due_ns

    def chunk(self) -> bytes:
        """The next chunk, stamped now."""
        num = min(self.script.tokens_per_chunk, self.num - self.sent)
        stamp = monotonic_ns()
        text = f" {self.received_ns}:{stamp}" if self.sent == 0 else f" {stamp}"
        ids = ",".join(str(self.sent + i + 1) for i in range(num))
        self.sent += num
        finish = '"length"' if self.sent >= self.num else "null"
        content = f'"delta":{{"content":"{text}"}}' if self.chat else f'"text":"{text}"'
        token_ids = f',"token_ids":[{ids}]' if self.script.token_ids else ""
        return _event(
            f'"choices":[{{"index":0,{content},"logprobs":null,"finish_reason":{finish}{token_ids}}}],"usage":null'
        )

    def ending(self) -> bytes:
        """Usage, [DONE] and the last chunk of the body."""
        parts = []
        if self.script.usage:
            parts.append(
                _event(
                    f'"choices":[],"usage":{{"prompt_tokens":{self.prompt_len},'
                    f'"completion_tokens":{self.sent},"total_tokens":{self.prompt_len + self.sent}}}'
                )
            )
        if self.script.done:
            parts.append(_http_chunk(b"data: [DONE]\n\n"))
        return b"".join((*parts, b"0\r\n\r\n"))


def _event(fields: str) -> bytes:
    text = (
        'data: {"id":"cmpl-0","object":"text_completion","created":1700000000,"model":"known",'
        + fields
        + "}\n\n"
    )
    return _http_chunk(text.encode())


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)


class _Peer(asyncio.Protocol):
    """One client connection."""

    def __init__(self, clock: _Clock, script: Script) -> None:
        self._clock = clock
        self._script = script
        self._buffer = b""
        self.transport: Any = None
        self.fd = -1

    def connection_made(self, transport: Any) -> None:
        """Called by the loop."""
        self.transport = transport
        self.fd = transport.get_extra_info("socket").fileno()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop; streams of this connection end by themselves."""
        self.fd = -1

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self._buffer += data
        while True:
            head, blank, rest = self._buffer.partition(b"\r\n\r\n")
            if not blank:
                return
            length = 0
            for line in head.split(b"\r\n")[1:]:
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            self._answer(head, rest[:length])

    def write(self, data: bytes) -> None:
        """Hand bytes to the kernel now."""
        if self.fd < 0:
            return
        written = 0
        with suppress(OSError):
            written = os.write(self.fd, data)
        if written < len(data):
            self.transport.write(data[written:])

    def _answer(self, head: bytes, content: bytes) -> None:
        received = monotonic_ns()
        if not head.startswith(b"POST"):
            self.write(_plain(200, b"{}"))
            return
        fields = msgspec.json.decode(content)
        script = msgspec.convert(fields["script"], Script) if "script" in fields else self._script
        if script.faults:
            script = msgspec.structs.replace(script, fault=_scripted(script.faults, fields.get("prompt")))
        if script.fault == "http":
            extra = f"Retry-After: {script.retry_after}\r\n".encode() if script.retry_after else b""
            self.write(_plain(script.status, b'{"error":{"message":"scripted"}}', extra))
        elif script.fault == "close_at_once":
            self.transport.abort()
        elif script.fault == "garbage":
            self.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        elif script.fault != "no_answer":
            self._begin(_Stream(self, fields, script, received), bool(fields.get("stream", False)))

    def _begin(self, stream: _Stream, streaming: bool) -> None:
        if not streaming:
            self._clock.later(stream.due_ns, lambda: self.write(_whole(stream)))
            return
        self.write(_SSE_HEAD)
        if stream.chat and stream.script.role_chunk:
            self.write(_event('"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]'))
        self._clock.add(stream)


def _scripted(faults: tuple[Fault, ...], prompt: object) -> Fault:
    which = prompt[0] if isinstance(prompt, list) and prompt else len(faults)
    return faults[which] if which < len(faults) else ""


def _plain(status: int, content: bytes, extra: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d Scripted\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b" % (
        status,
        extra,
        len(content),
        content,
    )


def _whole(stream: _Stream) -> bytes:
    text = "".join(f" {i}" for i in range(stream.num))
    content = {"message": {"role": "assistant", "content": text}} if stream.chat else {"text": text}
    choice = {"index": 0, **content, "finish_reason": "length", "token_ids": list(range(1, stream.num + 1))}
    usage = {"prompt_tokens": stream.prompt_len, "completion_tokens": stream.num}
    return _plain(200, msgspec.json.encode({"choices": [choice], "usage": usage}))


class _Clock:
    """Sends every stream's tokens when they are due."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._streams: list[_Stream] = []
        self._waiting: deque[_Stream] = deque()
        self._num_served = 0
        self._calls: list[tuple[int, int, Any]] = []
        self._alarm = Alarm(loop, self._ring)
        self._count = 0

    def add(self, stream: _Stream) -> None:
        """Start a stream, or let it wait for a slot."""
        if stream.script.slots and self._num_served >= stream.script.slots:
            self._waiting.append(stream)
            return
        self._num_served += 1
        self._start(stream)

    def _ended(self) -> None:
        """A slot is free: the longest waiting goes on."""
        self._num_served -= 1
        if self._waiting:
            stream = self._waiting.popleft()
            stream.due_ns = monotonic_ns() + int(stream.script.first_token_s * 1e9)
            self.add(stream)

    def _start(self, stream: _Stream) -> None:
        if stream.due_ns <= monotonic_ns():
            self._advance(stream)
            return
        heapq.heappush(self._streams, stream)
        self._set()

    def later(self, at_ns: int, call: Any) -> None:
        """Call once at a time."""
        self._count += 1
        heapq.heappush(self._calls, (at_ns, self._count, call))
        self._set()

    def _set(self) -> None:
        times = [s.due_ns for s in self._streams[:1]] + [c[0] for c in self._calls[:1]]
        if times:
            self._alarm.set(min(times))

    def _ring(self) -> None:
        while self._calls and self._calls[0][0] <= monotonic_ns():
            heapq.heappop(self._calls)[2]()
        while self._streams and self._streams[0].due_ns <= monotonic_ns():
            self._advance(heapq.heappop(self._streams))
        self._set()

    def _advance(self, stream: _Stream) -> None:
        """Send what is due of one stream and queue the rest."""
        if self._step(stream):
            self._ended()

    def _step(self, stream: _Stream) -> bool:
        """True when the stream is over."""
        script = stream.script
        while not (script.fault and stream.sent >= script.fault_after):
            if stream.connection.fd < 0:
                return True
            if stream.sent >= stream.num:
                stream.connection.write(stream.ending())
                return True
            last = stream.sent + script.tokens_per_chunk >= stream.num and not script.fault
            stream.connection.write(stream.chunk() + stream.ending() if last else stream.chunk())
            if last:
                return True
            if script.token_s:
                stream.due_ns += int(script.token_s * 1e9)
                heapq.heappush(self._streams, stream)
                self._set()
                return False
        _break(stream)
        return True


def _break(stream: _Stream) -> None:
    peer, fault = stream.connection, stream.script.fault
    if fault == "reset":
        raw = socket.socket(fileno=os.dup(peer.fd))
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.transport.abort()
        raw.close()
    elif fault == "half_close":
        peer.transport.write_eof()
    elif fault == "truncated":
        peer.write(b"0\r\n\r\n")
    elif fault == "error_event":
        peer.write(_http_chunk(b'data: {"error":{"message":"scripted engine error","code":500}}\n\n'))
        peer.write(_http_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


async def _serve(script: Script, host: str) -> None:
    """Print the port, serve until standard input closes."""
    loop = asyncio.get_running_loop()
    clock = _Clock(loop)
    server = await loop.create_server(lambda: _Peer(clock, script), host, 0, backlog=4096)
    with suppress(BrokenPipeError):  # whoever asked is gone already, and so is standard input
        os.write(sys.stdout.fileno(), f"{server.sockets[0].getsockname()[1]}\n".encode())
    closed = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), closed.set)
    await closed.wait()
    loop.remove_reader(sys.stdin.fileno())
    server.close()


def main() -> None:
    """`python -m harness.client.known_server SCRIPT_JSON HOST`."""
    script = msgspec.json.decode(sys.argv[1], type=Script)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(script, sys.argv[2]))


@contextmanager
def running(script: Script | None = None, host: str = "127.0.0.1") -> Iterator[str]:
    """Base URL of a known server in a process of its own, which ends on leaving or with this process.

    Raises MachineError when it does not start.
    """
    root = str(Path(__file__).resolve().parents[2])
    words = msgspec.json.encode(script or Script()).decode()
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.client.known_server", words, host],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", "")))),
        },
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        port = process.stdout.readline().strip()
        if not port:
            raise MachineError("the known-timing server did not start: see its message above")
        yield f"http://{host}:{int(port)}"
    finally:
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
