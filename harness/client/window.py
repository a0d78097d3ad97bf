"""The timed part: what is held still around it, and what it cost."""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from time import monotonic_ns
from typing import NamedTuple

from harness.client.dispatch import Dispatch
from harness.schema import Noun

Gate = Callable[[], Awaitable[int]]
"""Waits until the timed part may begin and returns its start, ns on the monotonic clock."""
_LEAD_NS = 2_000_000
_PULSE_S = 0.5
_STOOD_STILL_S = 2.5
"""Four missed beats: on busy machines a process waits tenths of a second for a core."""
_SATURATED = 0.8
"""CPU share of its cores above which a client is taken to be measuring itself."""
_LATE_S = 0.02
"""Sends later than this at the 99th percentile are no longer the schedule that was asked for."""


class Pulse(Noun):
    """How far the timed part is."""

    num_in_flight: int
    num_ended: int
    """Requests that have ended; their records may come later."""


class Watch(NamedTuple):
    """What ties a timed part to its caller."""

    stop: threading.Event | None = None
    """Once set, the timed part ends early."""
    on_pulse: Callable[[Pulse], None] | None = None
    """Told twice a second, and at the end of the timed part."""


UNWATCHED = Watch()


class ClientStats(Noun):
    """What firing cost and how punctual it was. Times in seconds."""

    started_at: str
    """Wall clock, ISO 8601 UTC, of the start of the timed part."""
    duration_s: float
    """Start of the timed part -> end of the last answer."""
    cpu_s: float
    """CPU time of all client processes over the timed part."""
    num_in_flight_max: int
    """Most requests in flight; with several workers the sum of theirs."""
    num_connections: int
    """Connections opened in all."""
    later_cpu_s: float = 0.0
    """CPU time of theirs after it: parsing and recording what was kept meanwhile."""
    num_workers: int = 1
    late_p50_s: float = 0.0
    """Open loop: sent - due, of requests that did not wait for a free slot."""
    late_p99_s: float = 0.0
    interrupted: bool = False
    """Stopped before its end: by `stop` or Ctrl-C."""
    stood_still_s: float = 0.0
    """Longest time in which a client process did nothing: it was stopped, swapped out, or had no core."""

    @property
    def cpu_share(self) -> float:
        """CPU used of the one core per worker that there was; near 1 the client measures itself."""
        return self.cpu_s / (self.duration_s * self.num_workers) if self.duration_s > 0 else 0.0

    @property
    def client_bound(self) -> str:
        """Why a trial with these stats measured the client rather than the engine; "" when it did not."""
        if self.cpu_share > _SATURATED:
            used = f"the client used {self.cpu_share:.0%} of its {self.num_workers} core(s)"
            return f"{used}: give it more with workers=N"
        if self.late_p99_s > _LATE_S:
            late = f"1 % of requests went out over {self.late_p99_s * 1000:.0f} ms late"
            return f"{late}: lower the rate, or free the CPU"
        if self.stood_still_s > _STOOD_STILL_S:
            still = (
                f"the client itself did nothing for {self.stood_still_s:.1f} s (stopped, or without a core)"
            )
            return f"{still}: measure again on a machine that is left alone"
        return ""


async def soon() -> int:
    """The gate of a client that waits for nobody."""
    return monotonic_ns() + _LEAD_NS


async def measured(dispatch: Dispatch, watch: Watch = UNWATCHED, gate: Gate = soon) -> ClientStats:
    """Prepare, run the timed part, clean up. Ctrl-C arrives as CancelledError, after records are written."""
    await dispatch.prepare()
    try:
        with frozen_gc():
            started = await gate()
            cpu = cpu_seconds()
            started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
            beats = [started]
            pulse = asyncio.create_task(_pulse(dispatch, watch.on_pulse, beats)) if watch.on_pulse else None
            try:
                finished = await dispatch.run(started, watch.stop)
            finally:
                ended, cpu = monotonic_ns(), cpu_seconds() - cpu
                if pulse and watch.on_pulse:
                    beats.append(ended)
                    pulse.cancel()
                    watch.on_pulse(_pulse_of(dispatch))
                later = cpu_seconds()
                with signals_held():
                    dispatch.settle()
                later = cpu_seconds() - later
    finally:
        dispatch.close()
        await asyncio.sleep(0)
    late = sorted(dispatch.late_ns)
    return ClientStats(
        started_at=started_at,
        duration_s=max(0, ended - started) / 1e9,
        cpu_s=cpu,
        later_cpu_s=later,
        num_in_flight_max=dispatch.num_in_flight_max,
        num_connections=dispatch.num_connections,
        late_p50_s=percentile(late, 50) / 1e9,
        late_p99_s=percentile(late, 99) / 1e9,
        interrupted=not finished,
        stood_still_s=max((b - a for a, b in pairwise(beats)), default=0) / 1e9,
    )


async def _pulse(dispatch: Dispatch, on_pulse: Callable[[Pulse], None], beats: list[int]) -> None:
    """`beats`: when it beat, ns."""
    while True:
        await asyncio.sleep(_PULSE_S)
        beats.append(monotonic_ns())
        on_pulse(_pulse_of(dispatch))


def _pulse_of(dispatch: Dispatch) -> Pulse:
    return Pulse(num_in_flight=dispatch.num_in_flight, num_ended=dispatch.num_ended)


def percentile(ordered: Sequence[float], p: float) -> float:
    """The sorted value that p % of all lie below (index floor(n p / 100), at most the last); 0 for none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))] if ordered else 0.0


def cpu_seconds() -> float:
    """User and system time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextmanager
def signals_held() -> Iterator[None]:
    """Ctrl-C and SIGTERM come when the block is over: no record is lost half-made."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def frozen_gc() -> Iterator[None]:
    """No garbage collection meanwhile: a pass over a large heap stops all streams for milliseconds."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
