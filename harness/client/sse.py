"""Server-sent events, as the HTML standard (section 9.2) parses them, whatever the framing.

Incremental and exact: bytes may be cut anywhere, lines may end in LF, CRLF or CR, `data:` may lack its
space or run over several lines, comments and unknown fields are passed over, a leading byte-order mark
is dropped, and an event without its blank line at the end of the stream is discarded.
"""

from __future__ import annotations

MAX_EVENT_BYTES = 64 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


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
