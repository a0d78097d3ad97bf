"""Connections kept ready: opened before the timed part, the freshest used first, the stale replaced."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from time import monotonic_ns

from harness.client.body import Target, url_parts
from harness.client.connection import Connection
from harness.client.response import Response

IDLE_LIMIT_NS = 4_000_000_000
"""Servers close idle connections (uvicorn after 5 s): one older than this is not trusted with a request."""
_OPENED_AT_ONCE = 64
_CONNECT_TIMEOUT_S = 30.0


class Pool:
    """Idle connections to one server."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, target: Target, on_batch: Callable[[Response], None]
    ) -> None:
        parts = url_parts(target)
        self._loop = loop
        self._on_batch = on_batch
        self._host = str(parts.hostname)
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._idle: list[Connection] = []
        self._opening = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.num_opened = 0

    async def connect(self) -> Connection:
        """A new open connection. Raises OSError (refused, unreachable, timed out, bad certificate)."""
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            _, connection = await self._loop.create_connection(
                lambda: Connection(self._forget, self._on_batch), self._host, self._port, ssl=self._tls
            )
        self.num_opened += 1
        return connection

    async def open(self, num: int) -> None:
        """Have `num` idle connections; what cannot be opened now will show on the requests."""
        while (missing := num - len(self._idle)) > 0:
            batch = min(missing, _OPENED_AT_ONCE)
            made = await asyncio.gather(*(self.connect() for _ in range(batch)), return_exceptions=True)
            self._idle.extend(c for c in made if isinstance(c, Connection))
            if any(isinstance(c, BaseException) for c in made):
                return

    def take(self) -> Connection | None:
        """The most recently used idle connection, or None."""
        now = monotonic_ns()
        while self._idle:
            connection = self._idle.pop()
            if connection.open and now - connection.last_ns < IDLE_LIMIT_NS:
                return connection
            connection.abort()
        return None

    def give(self, connection: Connection) -> None:
        """Put a connection back after its answer."""
        if connection.open:
            self._idle.append(connection)

    def keep_ready(self, num: int) -> None:
        """Replace stale connections and open more in the background until `num` are idle."""
        now = monotonic_ns()
        for connection in [c for c in self._idle if now - c.last_ns > IDLE_LIMIT_NS]:
            connection.abort()
            self._idle.remove(connection)
        for _ in range(num - len(self._idle) - self._opening):
            self._opening += 1
            task = self._loop.create_task(self._open_one())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _open_one(self) -> None:
        try:
            with suppress(OSError):
                self._idle.append(await self.connect())
        finally:
            self._opening -= 1

    def close(self) -> None:
        """Close every idle connection."""
        for task in self._tasks:
            task.cancel()
        for connection in self._idle:
            connection.abort()
        self._idle.clear()

    def _forget(self, connection: Connection) -> None:
        with suppress(ValueError):
            self._idle.remove(connection)


def connect_later(
    pool: Pool, loop: asyncio.AbstractEventLoop, then: Callable[[Connection | OSError], None]
) -> asyncio.Task[None]:
    """Open a connection and hand it (or the error) to `then`."""

    async def go() -> None:
        try:
            made: Connection | OSError = await pool.connect()
        except OSError as error:
            made = error
        then(made)

    return loop.create_task(go())
