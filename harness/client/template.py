"""The quickest way through a batch of reads: most events of a stream differ in their text and token ids only.

A template is the rest of such an event, learnt from one of them. Texts and ids are cut out where they must
lie; put back into the template they must give the very bytes that came, sizes of the HTTP chunks included,
else the batch is refused and read a slower way. So nothing depends on the cutting being right.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import compress, repeat
from operator import itemgetter

import msgspec

from harness.client.answer import Answer, Tokens, decode_plainly

_END = b"\n\n\r\n"
_DATA = b"\r\ndata: "
_EVENT = re.compile(rb"([0-9a-fA-F]{2,3})\r\ndata: ([^\r\n]*)\n\n\r\n")
_TEXT = re.compile(rb'"(?:text|content)": ?"((?:[^"\\]|\\.)*)"')
_ID = re.compile(rb'^(\{"id": ?)"[\w-]*"')
_ANY_ID = rb'\1"any"'
"""The answer's id, which nothing reads: what is known of one answer's template holds for the next."""
_IDS = re.compile(rb'"token_ids": ?\[([0-9, ]*)\]')
_TWO_DIGITS = 258
"""Events shorter than this (END left out) have a size of two digits, longer ones three; none is as long."""
_LOOKED_AT = 6
"""Reads at either end that may hold other events: a role, a finish reason, usage, [DONE]."""
_decode_text = msgspec.json.Decoder(str).decode
_decode_ids = msgspec.json.Decoder(list[int]).decode
_without_end = itemgetter(slice(-len(_END)))


class _Joints(dict[int, bytes]):
    """Length of an event, END left out -> what stands between the text before it and its own."""

    def __init__(self, after: bytes, size: bytes, before: bytes) -> None:
        super().__init__()
        self._parts = (after, size, before)

    def __missing__(self, length: int) -> bytes:
        after, size, before = self._parts
        num_digits = 2 if length < _TWO_DIGITS else 3
        joint = self[length] = b"%b%b%b" % (after, size % (length - num_digits), before)
        return joint


class Template:
    """Size of the HTTP chunk, `before`, text, `middle`, token ids, `after`; no ids when `middle` is empty."""

    __slots__ = ("_after", "_before", "_joints", "_middle", "_shortest")

    def __init__(self, before: bytes, middle: bytes, after: bytes, *, upper: bool = False) -> None:
        self._before, self._middle, self._after = before, middle, after
        self._joints = _Joints(after + _END, b"%X" if upper else b"%x", before)
        self._shortest = 2 + len(before + middle + after + _END)

    def span(self, reads: Sequence[bytes]) -> tuple[int, int]:
        """The first read that looks like the template, and the one behind the last."""
        first, last = 0, len(reads)
        while first < min(last, _LOOKED_AT) and not self._fits(reads[first]):
            first += 1
        lowest = max(first, last - _LOOKED_AT)
        while last > lowest and not self._fits(reads[last - 1]):
            last -= 1
        return first, last

    def _fits(self, read: bytes) -> bool:
        return read.endswith(self._after + _END) and read.find(self._before, 0, 1024) in (2, 3)

    def read(self, reads: Sequence[bytes], stamps: Sequence[int]) -> Tokens | None:
        """What reads that hold whole events of this kind say; None where a single byte is another."""
        sizes = list(map(len, reads))
        if max(sizes) < 2 * self._shortest:
            events = list(map(_without_end, reads))
        else:
            events, stamps = _split(reads, stamps)
            if not events:
                return None
        lengths = list(map(len, events))
        values = self._cut(events, lengths)
        texts, ids = self._halve(values) if self._middle else (values, None)
        whole = b"".join(self._put_back(lengths, texts, ids))
        raw = b"".join(reads)
        if not whole.endswith(raw) or len(whole) - len(raw) != len(self._after + _END):
            return None
        try:
            return Tokens(_text(texts), _flat(ids), _with_content(texts, ids, stamps))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def _cut(self, events: list[bytes], lengths: list[int]) -> list[bytes]:
        """Each event's text, or its text, middle and ids."""
        begin, end = 2 + len(self._before), -len(self._after)
        if max(lengths) < _TWO_DIGITS:
            return list(map(itemgetter(slice(begin, end)), events))
        if min(lengths) > _TWO_DIGITS:
            return list(map(itemgetter(slice(begin + 1, end)), events))
        return [e[begin + (len(e) > _TWO_DIGITS) : end] for e in events]

    def _halve(self, values: list[bytes]) -> tuple[list[bytes], Sequence[bytes]]:
        """Texts and ids, which the last bracket parts."""
        heads, _, ids = zip(*map(bytes.rpartition, values, repeat(b"[")), strict=True)
        return list(map(itemgetter(slice(1 - len(self._middle))), heads)), ids

    def _put_back(self, lengths: list[int], texts: list[bytes], ids: Sequence[bytes] | None) -> list[bytes]:
        """The parts of the batch as it must have come, behind an end of an event."""
        num, step = len(texts), 2 if ids is None else 4
        parts = [self._middle] * (num * step + 1)
        parts[0:-1:step] = map(self._joints.__getitem__, lengths)
        parts[1::step] = texts
        if ids is not None:
            parts[3::step] = ids
        parts[-1] = self._after + _END
        return parts


def learn(read: bytes) -> Template | None:
    """The template of a read that holds an event with text; None where it would not read as it should."""
    event = _EVENT.match(read)
    text = _TEXT.search(event[2]) if event else None
    if event is None or text is None:
        return None
    before, rest = event[2][: text.start(1)], event[2][text.end(1) :]
    ids = _IDS.search(rest)
    middle = rest[: ids.start(1)] if ids else b""
    after = rest[ids.end(1) :] if ids else rest
    if not _reads_well(_ID.sub(_ANY_ID, before, 1), middle, after):
        return None
    return Template(_DATA + before, middle, after, upper=event[1].isupper())


@lru_cache(maxsize=256)
def _reads_well(before: bytes, middle: bytes, after: bytes) -> bool:
    """Text and ids put into the template are all that the general reading finds in it."""
    for text, ids in (("probe", [7] if middle else []), ("", [])):
        answer = Answer()
        event = b"".join((before, text.encode(), middle, b"7" * len(ids), after))
        try:
            answer.add(decode_plainly(event), 1)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        expected = Answer()
        if text:
            expected.add_tokens(Tokens(text, ids, [1]))
        if answer.contents != expected.contents:
            return False
    return True


def _split(reads: Sequence[bytes], stamps: Sequence[int]) -> tuple[list[bytes], list[int]]:
    """Events, END left out, of reads that hold several whole ones, each with its read's stamp."""
    events: list[bytes] = []
    ready: list[int] = []
    for read, stamp in zip(reads, stamps, strict=True):
        found = read.split(_END)
        found.pop()
        events += found
        ready += [stamp] * len(found)
    return events, ready


def _text(texts: list[bytes]) -> str:
    """All texts together, unescaped each by itself. Raises DecodeError, UnicodeDecodeError."""
    joined = b"".join(texts)
    if joined.isascii() and b"\\" not in joined:
        return _decode_text(b'"%b"' % joined)
    return "".join([_decode_text(b'"%b"' % text) for text in texts])


def _flat(ids: Sequence[bytes] | None) -> list[int]:
    """All ids. Raises DecodeError."""
    if ids is None:
        return []
    joined = b",".join(filter(None, ids))
    if b"\n" in joined or b"\r" in joined:
        raise msgspec.DecodeError("white space in JSON, but the end of a line in an event")
    return _decode_ids(b"[%b]" % joined)


def _with_content(texts: list[bytes], ids: Sequence[bytes] | None, stamps: Sequence[int]) -> Sequence[int]:
    """Stamps of the events that have a text or ids."""
    if all(texts) or (ids is not None and all(ids)):
        return stamps
    either = texts if ids is None else [text or id_ for text, id_ in zip(texts, ids, strict=True)]
    return list(compress(stamps, either))
