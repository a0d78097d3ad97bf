"""A wake-up finer than the event loop's millisecond timers: Linux timerfd, else the loop's own timer."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from time import monotonic_ns

_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC


class _Timer(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("at_s", ctypes.c_long),
        ("at_ns", ctypes.c_long),
    )


class Alarm:
    """Calls `ring` on the loop at the time last set (ns on the monotonic clock)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._handle: asyncio.TimerHandle | None = None
        self._fd = -1
        with suppress(OSError, AttributeError):
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, _FLAGS)
        if self._fd >= 0:
            loop.add_reader(self._fd, self._on_readable)

    def set(self, at_ns: int) -> None:
        """Ring once at `at_ns`, or at once when that is past; replaces an earlier setting."""
        if self._fd >= 0:
            seconds, nanos = divmod(max(at_ns, 1), 1_000_000_000)
            timer = _Timer(0, 0, seconds, nanos)
            self._libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(timer), None)
            return
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_later(max(0, at_ns - monotonic_ns()) / 1e9, self._ring)

    def close(self) -> None:
        """Ring no more."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        if self._handle is not None:
            self._handle.cancel()

    def _on_readable(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._fd, 8)
        self._ring()
