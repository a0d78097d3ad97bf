"""One HTTP answer while it arrives: reads with their stamps in, one RequestRecord out.

Nothing is parsed while a stream runs beyond what tells its end; reads and stamps are kept and fed here in
batches. An event's time is the stamp of the read that completed it, however the bytes were cut. At its end
answer and stamps become the RequestRecord that is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from harness.client.answer import Answer, NotAChunk
from harness.client.bulk import read_batch
from harness.client.wire import (
    MAX_HEAD_BYTES,
    BodyParser,
    EventParser,
    EventTooLong,
    FramingError,
    Head,
    read_head,
)
from harness.schema import ErrorKind, Request, RequestRecord

MAX_KEPT_BODY = 16 * 1024 * 1024
_SHOWN = 2000
_NS_PER_S = 1e9
_LAST = b"\r\n\r\n"
_READ_OVERHEAD = 80
"""Bytes that a kept read takes beside its own: two objects, two places in lists."""
_TELLING = 8
_QUICK_FROM = 3
_QUICK_BYTES = 1024
"""Fewer reads than this, of fewer bytes, are not worth the quick way."""


class Response:
    """Parser of one answer. `done` turns True at its end; then `error_kind` and `error` are final."""

    __slots__ = (
        "_body",
        "_deferred",
        "_events",
        "_head_bytes",
        "_held",
        "_held_stamps",
        "_plain",
        "_plain_size",
        "answer",
        "done",
        "error",
        "error_kind",
        "head",
    )

    def __init__(self) -> None:
        self.answer = Answer()
        self.head: Head | None = None
        self.done = False
        self.error_kind: ErrorKind = ""
        self.error = ""
        self._head_bytes = b""
        self._body: BodyParser | None = None
        self._events: EventParser | None = None
        self._plain: list[bytes] = []
        self._plain_size = 0
        self._held: list[bytes] = []
        self._held_stamps: list[int] = []
        self._deferred: deque[tuple[Sequence[bytes], Sequence[int]]] = deque()

    @property
    def started(self) -> bool:
        """Some byte of the answer has arrived."""
        return bool(self._head_bytes) or self.head is not None

    @property
    def reusable(self) -> bool:
        """The connection may carry another request after this answer."""
        return (
            self.done
            and self.head is not None
            and self.head.keep_alive
            and self._body is not None
            and self._body.done
            and not self._body.excess
        )

    @property
    def counted(self) -> bool:
        """The end shows only by counting bytes (or by the close), not by a last chunk."""
        return self.head is None or not self.head.chunked

    def feed(self, reads: Sequence[bytes], stamps: Sequence[int]) -> None:
        """Take reads in order, each with its arrival time in ns; deferred ones go first."""
        while self._deferred:
            self.catch_up()
        self._feed(reads, stamps)

    def _feed(self, reads: Sequence[bytes], stamps: Sequence[int]) -> None:
        if self._held:
            reads, stamps = [*self._held, *reads], [*self._held_stamps, *stamps]
            self._held, self._held_stamps = [], []
        if self._body is None:
            reads, stamps = self._feed_head(reads, stamps)
        if reads and self._at_event and (len(reads) > _QUICK_FROM or len(reads[0]) > _QUICK_BYTES):
            reads, stamps = self._feed_batch(reads, stamps)
            if reads and not b"".join(reads[-len(_LAST) :]).endswith(_LAST):
                # Part of an event: what follows goes the quick way too if it is fed together with it.
                self._held, self._held_stamps = list(reads), list(stamps)
                return
        self._feed_exactly(reads, stamps)

    def _feed_held(self) -> None:
        reads, stamps = self._held, self._held_stamps
        self._held, self._held_stamps = [], []
        self._feed_exactly(reads, stamps)

    def defer(self, reads: Sequence[bytes], stamps: Sequence[int]) -> None:
        """Keep reads to be fed by catch_up()."""
        self._deferred.append((reads, stamps))

    @property
    def num_deferred(self) -> int:
        """Batches that wait for catch_up()."""
        return len(self._deferred)

    @property
    def newest_size(self) -> int:
        """Bytes of memory that the batch deferred last takes, about: a few of its reads tell."""
        reads, _ = self._deferred[-1]
        some = reads[:: -(-len(reads) // _TELLING)]
        return len(reads) * (sum(map(len, some)) // len(some) + _READ_OVERHEAD)

    def catch_up(self) -> None:
        """Feed the oldest deferred reads, if there are any."""
        if self._deferred:
            self._feed(*self._deferred.popleft())

    def _feed_exactly(self, reads: Sequence[bytes], stamps: Sequence[int]) -> None:
        for data, stamp in zip(reads, stamps, strict=True):
            if self.done:
                return
            try:
                self._feed_read(data, stamp)
            except (FramingError, NotAChunk, EventTooLong) as bad:
                self.fail("protocol", str(bad))

    @property
    def _at_event(self) -> bool:
        """A chunk of the body, and in it an event, is about to begin."""
        if self.done or self._body is None or self._events is None:
            return False
        return self._body.clean and not self._body.done and self._events.clean

    def _feed_head(
        self, reads: Sequence[bytes], stamps: Sequence[int]
    ) -> tuple[Sequence[bytes], Sequence[int]]:
        """Take reads up to the end of the head; returns what is left, or nothing when it has not come."""
        for index, data in enumerate(reads):
            try:
                rest = self._take_head(data)
            except FramingError as bad:
                self.fail("protocol", str(bad))
                return (), ()
            if self._body is not None:
                left = [rest, *reads[index + 1 :]]
                return (
                    (left[1:], stamps[index + 1 :]) if self._at_event and not rest else (left, stamps[index:])
                )
        return (), ()

    def _feed_batch(
        self, reads: Sequence[bytes], stamps: Sequence[int]
    ) -> tuple[Sequence[bytes], Sequence[int]]:
        """Take the front of the reads the quick way; returns what is left."""
        batch = read_batch(reads, stamps)
        if batch is None:
            self._feed_exactly(reads, stamps)
            return (), ()
        if self._events is not None:
            self._events.skip_start()
        for chunk, stamp in zip(batch.chunks, batch.stamps, strict=True):
            self.answer.add(chunk, stamp)
        self.answer.saw_done = self.answer.saw_done or batch.saw_done
        left, index = batch.size_left, len(reads)
        while left > 0:
            index -= 1
            left -= len(reads[index])
        rest = list(reads[index:])
        if left < 0:
            rest[0] = rest[0][-left:]
        return rest, stamps[index:]

    def _feed_read(self, data: bytes, stamp: int) -> None:
        assert self._body is not None
        body = self._body.feed(data)
        if self._events is not None:
            for kind, event in self._events.feed(body):
                self.answer.add_event(kind, event, stamp)
        elif body:
            self._plain.append(body)
            self._plain_size += len(body)
            if self._plain_size > MAX_KEPT_BODY:
                raise FramingError(f"a body beyond {MAX_KEPT_BODY} bytes")
        if self._body.error:
            raise FramingError(self._body.error)
        if self._body.done:
            self._finish(stamp)

    def _take_head(self, data: bytes) -> bytes:
        """Bytes after the head; informational answers (1xx) are passed over."""
        self._head_bytes += data
        while True:
            raw, blank, rest = self._head_bytes.partition(b"\r\n\r\n")
            if not blank:
                if len(raw) > MAX_HEAD_BYTES or not b"HTTP/1.".startswith(raw[:7]):
                    raise FramingError(f"not an HTTP/1.1 answer: {raw[:80]!r}")
                return b""
            head = read_head(raw)
            if head.status >= 200:
                break
            self._head_bytes = rest
        self.head = head
        self._body = BodyParser(chunked=head.chunked, length=None if head.chunked else head.length)
        if head.events:
            self._events = EventParser()
        return rest

    def _finish(self, stamp: int) -> None:
        """The body is complete: judge what it held."""
        assert self.head is not None
        if self._events is None:
            self._finish_plain(b"".join(self._plain), stamp)
            self._plain = []
        if not self.error_kind and self.answer.engine_error:
            self.error_kind, self.error = "engine", self.answer.engine_error
        if not self.error_kind and not self.answer.ended:
            self.error_kind = "truncated"
            self.error = "the stream ended without finish_reason and without [DONE]"
        self.done = True

    def _finish_plain(self, body: bytes, stamp: int) -> None:
        assert self.head is not None
        if self.head.status != 200:
            retry = self.head.headers.get("retry-after")
            note = f" (Retry-After: {retry})" if retry else ""
            text = body[:_SHOWN].decode("utf-8", "replace")
            self.error_kind, self.error = "http", f"HTTP {self.head.status}{note}: {text}"
            return
        try:
            self.answer.add_event(b"", body, stamp)
        except NotAChunk as bad:
            self.error_kind, self.error = "protocol", str(bad)

    def close(self, stamp: int, cause: str) -> None:
        """The connection ended. `cause`: "" for an orderly end, else the operating system's words."""
        while self._deferred:
            self.catch_up()
        self._feed_held()
        if self.done:
            return
        if cause:
            self.fail("reset", cause)
        elif not self.started:
            self.fail("reset", "the server closed the connection without answering")
        elif self._complete_without_end:
            self._finish(stamp)
        else:
            self.fail("truncated", "the server closed the connection in the middle of the answer")

    @property
    def _complete_without_end(self) -> bool:
        """The close itself ends the body, or [DONE] came and only the framing's end is missing."""
        return (self._body is not None and self._body.until_close) or self.answer.saw_done

    def fail(self, kind: ErrorKind, why: str) -> None:
        """End the answer with a labelled error; what arrived so far stays."""
        while self._deferred:
            self.catch_up()
        if self._held:
            self._feed_held()
        if not self.done:
            self.error_kind, self.error = kind, why
            self.done = True


class Times(NamedTuple):
    """Nanoseconds since the trial's start; `start_ns` is that start on the monotonic clock."""

    due_ns: int
    sent_ns: int
    done_ns: int
    start_ns: int


def build_record(request: Request, response: Response, times: Times) -> RequestRecord:
    """All of it, failed or not. Without usage output_len is the number of token ids given, else 0."""
    answer, start = response.answer, times.start_ns
    tokens = tuple(token for token in answer.named if token is not None)
    return RequestRecord(
        request_id=request.request_id,
        due_at_s=times.due_ns / _NS_PER_S,
        sent_at_s=times.sent_ns / _NS_PER_S,
        content_at_s=tuple([(stamp - start) / _NS_PER_S for stamp in answer.content_ns]),
        done_at_s=times.done_ns / _NS_PER_S,
        prompt_len=len(request.prompt_token_ids or ()) or request.prompt_len,
        input_len=answer.input_len,
        output_len=answer.output_len if answer.usage else len(answer.ids),
        usage=answer.usage,
        cached_len=answer.cached_len,
        runs=tuple(answer.runs),
        drafted_len=answer.drafted_len,
        accepted_len=answer.accepted_len,
        output_token_ids=tuple(answer.ids) if answer.ids_known else None,
        output_logprobs=tuple(answer.logprobs) if answer.logprobs else None,
        output_tokens=tokens
        if tokens and not answer.ids_known and len(tokens) == len(answer.named)
        else None,
        top_logprobs=tuple(answer.top) if request.top_logprobs and answer.top else None,
        text="".join(answer.texts),
        finish_reason=answer.finish_reason,
        http_status=response.head.status if response.head is not None else 0,
        error_kind=response.error_kind,
        error=response.error,
    )
