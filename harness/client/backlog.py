"""Parsing that may wait: for a moment without reads, or for the end of the timed part.

While the server is measured, the client should take no CPU and hold no core that it could leave free, so
what nobody waits for is kept as the bytes that came. Part of it is parsed meanwhile all the same: one answer
now and then, so that a view has news; what is older than KEPT_S, so that a killed process loses little; and
what exceeds KEPT_BYTES. Between two slices of that the process sleeps, since on a host with few cores the
server may have been put behind it on the same core.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import monotonic_ns
from typing import NamedTuple

LIMIT = 2048
"""More pieces wanted soon than this are done at once: the client cannot keep up, and memory must not grow."""
KEPT_BYTES = 128 * 1024 * 1024
"""More is parsed at once; parsing begins a quarter before that."""
KEPT_S = 30.0
SLICE_NS = 200_000
PAUSE_S = 0.001
TENDED_NS = 400_000_000

Work = Callable[[], None]


class Kept(NamedTuple):
    """A piece of work, the bytes that wait for it, and since when (ns)."""

    work: Work
    size: int
    since_ns: int


class Backlog:
    """Pieces of work, first in first out."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, kept_bytes: int = KEPT_BYTES, kept_s: float = KEPT_S
    ) -> None:
        self._loop = loop
        self._most = kept_bytes
        self._much = kept_bytes * 3 // 4
        self._kept_ns = int(kept_s * 1e9)
        self._waiting: deque[Work] = deque()
        self._kept: deque[Kept] = deque()
        self._size = 0
        self._paused = False
        self._tended_ns = 0

    def add(self, work: Work) -> None:
        """Have it done soon: one piece between two polls of the sockets."""
        self._waiting.append(work)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._do_one)
        elif len(self._waiting) > LIMIT:
            self._waiting.popleft()()

    def keep(self, work: Work, size: int) -> None:
        """Have it done some time; `size`: bytes held until then."""
        self._kept.append(Kept(work, size, monotonic_ns()))
        self._size += size
        if self._size > self._much:
            self._pause()
        while self._size > self._most:
            self._do_kept()

    def tend(self) -> None:
        """Called now and then while the timed part runs."""
        now = monotonic_ns()
        if self._kept and now - self._tended_ns > TENDED_NS:
            self._tended_ns = now
            self._do_kept()
        self._pause()

    def drain(self) -> None:
        """Do all of it now."""
        while self._kept:
            self._do_kept()
        while self._waiting:
            self._waiting.popleft()()

    def _do_one(self) -> None:
        if self._waiting:
            self._waiting.popleft()()
        if self._waiting:
            self._loop.call_soon(self._do_one)

    def _do_kept(self) -> None:
        oldest = self._kept.popleft()
        self._size -= oldest.size
        oldest.work()

    def _pause(self) -> None:
        if self._is_due and not self._paused:
            self._paused = True
            self._loop.call_later(PAUSE_S, self._do_slice)

    @property
    def _is_due(self) -> bool:
        """Something is kept that may be kept no longer."""
        if self._size > self._much:
            return True
        return bool(self._kept) and monotonic_ns() - self._kept[0].since_ns > self._kept_ns

    def _do_slice(self) -> None:
        self._paused = False
        end = monotonic_ns() + SLICE_NS
        while self._is_due and monotonic_ns() < end:
            self._do_kept()
        self._pause()
