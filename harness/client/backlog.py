"""Work that may wait until no read is waiting: parsing answers and handing out their records."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

LIMIT = 2048
"""More waiting than this is done at once: the client cannot keep up, and memory must not grow."""


class Backlog:
    """First in, first out; one piece of work between two polls of the sockets."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], None]] = deque()
        self.num_forced = 0

    def add(self, work: Callable[[], None]) -> None:
        """Have it done soon."""
        self._waiting.append(work)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._do_one)
        elif len(self._waiting) > LIMIT:
            self.num_forced += 1
            self._waiting.popleft()()

    def drain(self) -> None:
        """Do all of it now."""
        while self._waiting:
            self._waiting.popleft()()

    def _do_one(self) -> None:
        if self._waiting:
            self._waiting.popleft()()
        if self._waiting:
            self._loop.call_soon(self._do_one)
