"""The quick way through a batch of reads, for the framing that every engine's server uses.

One HTTP chunk holds one event, one event one line of JSON. A batch of that kind is unwrapped, and its events
decoded, by a handful of C-speed calls on the whole; anything else, however slightly, is refused (None) and
goes the exact way, byte by byte. The tests hold both ways against each other.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import msgspec

from harness.client.answer import Chunk, decode_plainly

_EVENT_END = b"\n\n\r\n"
_DONE = b"e\r\ndata: [DONE]"
_HEAD_LEN = 11
_HEAD = re.compile(rb"([1-9a-fA-F][0-9a-fA-F]{1,2})\r\ndata: ")
_SHORT = 258
"""Pieces below have two hexadecimal digits of size before them, pieces above three; none has 258 bytes."""


class _Lengths(dict[bytes, int]):
    """First bytes of a chunk (size line, "data: ") -> its length up to the blank line, or -1."""

    def __missing__(self, head: bytes) -> int:
        if len(self) > 65536:
            self.clear()
        start = _HEAD.match(head)
        length = int(start[1], 16) + len(start[1]) if start else -1
        self[head] = length
        return length


_LENGTHS = _Lengths()


class Batch(NamedTuple):
    """The whole events at the front of a batch of reads."""

    chunks: list[Chunk]
    stamps: Sequence[int]
    """Arrival of each chunk, ns."""
    size_left: int
    """Bytes at the end of the batch that belong to no whole event."""
    saw_done: bool


def read_batch(reads: Sequence[bytes], stamps: Sequence[int]) -> Batch | None:
    """Reads that begin where an HTTP chunk begins; None when they are not of the plain kind."""
    raw = b"".join(reads)
    pieces = raw.split(_EVENT_END)
    size_left = len(pieces.pop())
    saw_done = bool(pieces) and pieces[-1] == _DONE
    if saw_done:
        pieces.pop()
    if not pieces:
        return None
    lengths = list(map(len, pieces))
    if list(map(_LENGTHS.__getitem__, [piece[:_HEAD_LEN] for piece in pieces])) != lengths:
        return None
    lines = _lines(pieces, lengths)
    joined = b"".join(lines)
    if b"\n" in joined or b"\r" in joined:
        return None
    try:
        chunks = list(map(decode_plainly, lines))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return Batch(chunks, _stamp(lengths, reads, stamps), size_left, saw_done)


def _lines(pieces: list[bytes], lengths: list[int]) -> list[bytes]:
    """The JSON of each piece."""
    if max(lengths) < _SHORT:
        return [piece[10:] for piece in pieces]
    if min(lengths) > _SHORT:
        return [piece[11:] for piece in pieces]
    return [piece[10:] if len(piece) < _SHORT else piece[11:] for piece in pieces]


def _stamp(lengths: list[int], reads: Sequence[bytes], stamps: Sequence[int]) -> Sequence[int]:
    """Stamp of the read in which each event's blank line ended: 2 bytes behind its piece."""
    num = len(lengths)
    sizes = [length + 4 for length in lengths]
    arrived = list(map(len, reads))
    if arrived[: num - 1] == sizes[:-1] and num <= len(reads) and arrived[num - 1] >= sizes[-1] - 2:
        return stamps[:num]
    ready = [end - 2 for end in accumulate(sizes)]
    completed: list[int] = []
    seen = 0
    for end, stamp in zip(accumulate(arrived), stamps, strict=True):
        now = bisect_right(ready, end, seen)
        if now > seen:
            completed += [stamp] * (now - seen)
            seen = now
    return completed
