"""The client: fires a precomputed schedule at one server and records what every request did.

A measuring instrument: connections are open and first bodies built before the timed part, the garbage
collector is frozen during it, reads are only stamped while streams run, a late request never shifts the
ones behind it, nothing is retried, and every failure is a label on its own record.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from time import monotonic_ns

import uvloop

from harness import pacing
from harness.body import Target, body
from harness.dispatch import Dispatch
from harness.errors import InputError
from harness.schema import Load, Noun, Request, RequestRecord

__all__ = ["ClientStats", "Target", "body", "fire"]

_LEAD_NS = 2_000_000


class ClientStats(Noun):
    """What firing cost and how punctual it was. Times in seconds."""

    started_at: str
    """Wall clock, ISO 8601 UTC, of the start of the timed part."""
    duration_s: float
    """Start of the timed part -> end of the last answer."""
    cpu_s: float
    """CPU time of all client processes over the timed part."""
    num_in_flight_max: int
    num_connections: int
    """Connections opened in all."""
    num_workers: int = 1
    late_p50_s: float = 0.0
    """sent - due, of requests that did not wait for a free slot or an earlier turn."""
    late_p99_s: float = 0.0
    late_max_s: float = 0.0
    interrupted: bool = False
    """Stopped before its end: by `stop` or Ctrl-C."""

    @property
    def cpu_share(self) -> float:
        """CPU used of the one core per worker that there was; near 1 the client measures itself."""
        return self.cpu_s / (self.duration_s * self.num_workers) if self.duration_s > 0 else 0.0


OnRecord = Callable[[RequestRecord], None]


def fire(
    target: Target,
    requests: Sequence[Request],
    load: Load,
    on_record: OnRecord,
    stop: threading.Event | None = None,
) -> ClientStats:
    """Send all requests as `load` says; call `on_record` (in this thread) as each ends.

    `stop`, once set, or Ctrl-C ends the run early: requests in flight are recorded as cancelled, those not
    yet sent leave no record; after Ctrl-C KeyboardInterrupt is raised again. Raises InputError before
    anything is sent when the requests cannot be expressed.
    """
    if target.num_workers > 1:
        raise InputError("more than one worker is not here yet")
    return run_here(target, requests, load, on_record, stop)


def run_here(
    target: Target,
    requests: Sequence[Request],
    load: Load,
    on_record: OnRecord,
    stop: threading.Event | None = None,
) -> ClientStats:
    """fire() in this very process."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(Dispatch(target, requests, load, on_record), stop))


async def _run(dispatch: Dispatch, stop: threading.Event | None) -> ClientStats:
    await dispatch.prepare()
    with _frozen_gc():
        cpu = cpu_seconds()
        started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        started = monotonic_ns() + _LEAD_NS
        try:
            finished = await dispatch.run(started, stop)
        finally:
            ended = monotonic_ns()
            cpu = cpu_seconds() - cpu
            dispatch.close()
    late = sorted(dispatch.late_ns)
    return ClientStats(
        started_at=started_at,
        duration_s=max(0, ended - started) / 1e9,
        cpu_s=cpu,
        num_in_flight_max=dispatch.num_in_flight_max,
        num_connections=dispatch.num_connections,
        late_p50_s=percentile(late, 50) / 1e9,
        late_p99_s=percentile(late, 99) / 1e9,
        late_max_s=(late[-1] if late else 0) / 1e9,
        interrupted=not finished,
    )


def percentile(ordered: Sequence[float], p: float) -> float:
    """Nearest-rank percentile of sorted values; 0 for none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))] if ordered else 0.0


def cpu_seconds() -> float:
    """User and system time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextmanager
def _frozen_gc() -> Iterator[None]:
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


def is_open_loop(load: Load) -> bool:
    """See pacing.is_open."""
    return pacing.is_open(load)
