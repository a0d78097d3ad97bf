"""What comes over the wire, read incrementally and strictly, byte by byte.

HTTP/1.1 answers, the head and the body's framing (RFC 9112): small on purpose, one answer at a time on one
connection, no compression asked for, none accepted.

Server-sent events as the HTML standard (section 9.2) parses them, whatever the framing: bytes may be cut
anywhere, lines may end in LF, CRLF or CR, `data:` may lack its space or run over several lines, comments and
unknown fields are passed over, a leading byte-order mark is dropped, and an event without its blank line at
the end of the stream is discarded.
"""

from __future__ import annotations

MAX_HEAD_BYTES = 64 * 1024
MAX_EVENT_BYTES = 64 * 1024 * 1024
_HEX = frozenset(b"0123456789abcdefABCDEF")
_BOM = b"\xef\xbb\xbf"
_HEADS_KEPT = 256


class FramingError(ValueError):
    """The bytes are not an HTTP/1.1 answer."""


class Head:
    """Status line and headers (names in lower case, the last of equals wins)."""

    __slots__ = ("events", "headers", "keep_alive", "status")

    def __init__(self, raw: bytes) -> None:
        lines = raw.decode("latin-1").split("\r\n")
        version, _, rest = lines[0].partition(" ")
        if not version.startswith("HTTP/1.") or not (rest[:3].isascii() and rest[:3].isdigit()):
            raise FramingError(f"not an HTTP/1.1 status line: {lines[0][:80]!r}")
        self.status = int(rest[:3])
        self.headers: dict[str, str] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon:
                raise FramingError(f"not a header: {line[:80]!r}")
            self.headers[name.lower()] = value.strip()
        kind = self.headers.get("content-type", "")
        self.events = self.status == 200 and "text/event-stream" in kind
        """The body is a stream of events."""
        connection = self.headers.get("connection", "").lower()
        self.keep_alive = "close" not in connection and (version != "HTTP/1.0" or "keep-alive" in connection)

    @property
    def chunked(self) -> bool:
        """Body comes in chunks."""
        return self.headers.get("transfer-encoding", "").lower().endswith("chunked")

    @property
    def length(self) -> int | None:
        """Body length in bytes; None = until the connection closes. Raises FramingError."""
        if self.status in (204, 304):
            return 0
        text = self.headers.get("content-length")
        if text is None:
            return None
        if not text.isascii() or not text.isdigit():
            raise FramingError(f"content-length is {text[:40]!r}")
        return int(text)


_heads: dict[bytes, Head] = {}


def read_head(raw: bytes) -> Head:
    """Head of these bytes (without the blank line); servers repeat theirs, so it is remembered.

    Raises FramingError.
    """
    head = _heads.get(raw)
    if head is None:
        if len(_heads) >= _HEADS_KEPT:
            _heads.clear()
        head = _heads[raw] = Head(raw)
    return head


class BodyParser:
    """Unwraps one body. `done` turns True at its end; bytes after that are left in `excess`.

    `error` says what broke the framing; the bytes before it are still given.
    """

    __slots__ = ("_chunked", "_in_trailer", "_left", "_line", "_need_crlf", "done", "error", "excess")

    def __init__(self, *, chunked: bool, length: int | None) -> None:
        self._chunked = chunked
        self._left = 0 if chunked else (length if length is not None else -1)
        self._line = b""
        self._need_crlf = False
        self._in_trailer = False
        self.done = not chunked and length == 0
        self.excess = b""
        self.error = ""

    @property
    def clean(self) -> bool:
        """True where a chunk-size line is about to begin."""
        return self._chunked and not (self._left or self._line or self._need_crlf or self._in_trailer)

    @property
    def until_close(self) -> bool:
        """True when only the end of the connection ends the body."""
        return not self._chunked and self._left < 0

    def feed(self, data: bytes) -> bytes:
        """Body bytes among `data`."""
        if self.done:
            self.excess += data
            return b""
        if self._chunked:
            return self._feed_chunks(data)
        if self._left < 0:
            return data
        body = data[: self._left]
        self._left -= len(body)
        self.done = self._left == 0
        self.excess = data[len(body) :]
        return body

    def _feed_chunks(self, data: bytes) -> bytes:
        parts: list[bytes] = []
        at = 0
        while at < len(data) and not self.done and not self.error:
            if self._left:
                part = data[at : at + self._left]
                parts.append(part)
                at += len(part)
                self._left -= len(part)
                self._need_crlf = self._left == 0
                continue
            end = data.find(b"\n", at)
            if end < 0:
                self._line += data[at:]
                at = len(data)
                if len(self._line) > MAX_HEAD_BYTES:
                    self.error = "a chunk-size line without end"
                break
            self._end_line(self._line + data[at:end])
            self._line = b""
            at = end + 1
        self.excess = data[at:] if self.done else b""
        return b"".join(parts)

    def _end_line(self, line: bytes) -> None:
        if line[-1:] == b"\r":
            line = line[:-1]
        if self._need_crlf:
            if line:
                self.error = f"chunk longer than its size: {line[:40]!r}"
            self._need_crlf = False
        elif self._in_trailer:
            self.done = not line
        else:
            size = line.partition(b";")[0].strip()
            if not size or len(size) > 12 or not _HEX.issuperset(size):
                self.error = f"not a chunk size: {line[:40]!r}"
                return
            self._left = int(size, 16)
            self._in_trailer = self._left == 0


class EventTooLong(ValueError):
    """One event grew beyond MAX_EVENT_BYTES without its blank line."""


class EventParser:
    """Turns body bytes into (event type, data) pairs; keeps only the event that is not yet complete."""

    __slots__ = ("_after_cr", "_at_start", "_data", "_line", "_line_len", "_size", "_type")

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._line_len = 0
        self._data: list[bytes] = []
        self._type = b""
        self._size = 0
        self._after_cr = False
        self._at_start = True

    @property
    def clean(self) -> bool:
        """True between events: no part of one is held."""
        return not (self._line or self._data or self._type or self._after_cr)

    def skip_start(self) -> None:
        """Tell the parser that the start of the stream, where a byte-order mark may stand, is behind."""
        self._at_start = False

    def feed(self, body: bytes) -> list[tuple[bytes, bytes]]:
        """Events completed by these bytes, in order. Raises EventTooLong."""
        if self._after_cr and body:
            self._after_cr = False
            if body[:1] == b"\n":
                body = body[1:]
        events: list[tuple[bytes, bytes]] = []
        lines = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._after_cr = body[-1:] == b"\r"
        for line in lines[:-1]:
            self._end_line(line, events)
        rest = lines[-1]
        if rest:
            self._line.append(rest)
            self._line_len += len(rest)
            if self._line_len + self._size > MAX_EVENT_BYTES:
                raise EventTooLong(f"an event exceeds {MAX_EVENT_BYTES} bytes")
        return events

    def _end_line(self, end: bytes, events: list[tuple[bytes, bytes]]) -> None:
        line = b"".join((*self._line, end)) if self._line else end
        self._line.clear()
        self._line_len = 0
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if line:
            self._take_field(line)
            return
        if self._data:
            events.append((self._type, b"\n".join(self._data)))
        self._data = []
        self._type = b""
        self._size = 0

    def _take_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._size += len(value)
            if self._size > MAX_EVENT_BYTES:
                raise EventTooLong(f"an event exceeds {MAX_EVENT_BYTES} bytes")
        elif name == b"event":
            self._type = value
