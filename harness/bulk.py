"""The quick way through a batch of reads, for the framing that every engine's server uses.

One HTTP chunk holds one event, one event one line of JSON. A batch of that kind is unwrapped, and its events
decoded, by a handful of C-speed calls on the whole; anything else, however slightly, is refused (None) and
goes the exact way, byte by byte. The tests hold both ways against each other.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import msgspec

from harness.answer import Chunk, decode_chunks

DONE = b"data: [DONE]\n\n"
_EVENT_END = b"\n\n\r\n"
_BETWEEN = b"\n\ndata: "
_HEX = frozenset(b"0123456789abcdefABCDEF")
_MAX_SIZES = 65536


class _Sizes(dict[bytes, int]):
    """Chunk-size line -> size; -1 for a line that is not plain hexadecimal."""

    def __missing__(self, line: bytes) -> int:
        if len(self) > _MAX_SIZES:
            self.clear()
        plain = 0 < len(line) <= 8 and _HEX.issuperset(line)
        size = self[line] = int(line, 16) if plain else -1
        return size


_SIZES = _Sizes()


class Batch:
    """The whole events at the front of a batch of reads."""

    __slots__ = ("chunks", "saw_done", "size", "stamps")

    def __init__(self, chunks: list[Chunk], stamps: Sequence[int], size: int, saw_done: bool) -> None:
        self.chunks = chunks
        self.stamps = stamps
        self.size = size
        """Bytes of the batch that are dealt with."""
        self.saw_done = saw_done


def read_batch(reads: Sequence[bytes], stamps: Sequence[int]) -> Batch | None:
    """Reads that begin where a chunk begins; None when they are not of the plain kind."""
    raw = b"".join(reads)
    size = raw.rfind(_EVENT_END) + len(_EVENT_END)
    if size < len(_EVENT_END):
        return None
    parts = raw[:size].split(b"\r\n")
    size_lines, events = parts[:-1:2], parts[1::2]
    lengths = list(map(len, events))
    if list(map(_SIZES.__getitem__, size_lines)) != lengths:
        return None
    saw_done = events[-1] == DONE
    if raw.count(_EVENT_END, 0, size) != len(events):
        return None
    chunks = _decode(events[:-1] if saw_done else events)
    if chunks is None:
        return None
    ends = list(accumulate(map(len, parts[:-1])))[1::2]
    stamps = _stamp(ends, reads, stamps)
    return Batch(chunks, stamps, size, saw_done)


def _decode(events: list[bytes]) -> list[Chunk] | None:
    """Chunks of events that are each "data: ", one line of JSON, and a blank line.

    The caller has seen as many chunk ends behind blank lines as there are events, so that no event runs
    over two chunks.
    """
    num = len(events)
    if not num:
        return []
    body = b"".join(events)
    plain = (
        body.startswith(b"data: ")
        and body.count(b"\n") == 2 * num
        and body.count(_BETWEEN) == num - 1
        and b"\r" not in body
    )
    if not plain:
        return None
    try:
        chunks = decode_chunks(b"[%b]" % body[6:-2].replace(_BETWEEN, b","))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return chunks if len(chunks) == num else None


def _stamp(ends: list[int], reads: Sequence[bytes], stamps: Sequence[int]) -> Sequence[int]:
    """Stamp of the read in which each event's blank line ended.

    `ends[i]` is where event i ends when line ends of the chunk framing are left out: 4 bytes an event.
    """
    num = len(ends)
    at = [end + 4 * i + 2 for i, end in enumerate(ends)]
    reached = list(accumulate(map(len, reads)))
    found: list[int] = []
    seen = 0
    for end, stamp in zip(reached, stamps, strict=True):
        now = bisect_right(at, end, seen)
        if now != seen:
            found += [stamp] * (now - seen)
            seen = now
            if seen == num:
                break
    return found
