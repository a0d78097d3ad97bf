"""The client: fires a precomputed schedule at one server and records what every request did.

A measuring instrument: connections are open and first bodies built before the timed part, the garbage
collector is frozen during it, reads are only stamped while streams run, a late request never shifts the
ones behind it, nothing is retried, and every failure is a label on its own record.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import uvloop

from harness.client.body import Job, Target, body
from harness.client.dispatch import Dispatch
from harness.client.window import UNWATCHED, ClientStats, Pulse, Watch, measured
from harness.schema import Load, Request, RequestRecord

__all__ = ["ClientStats", "Pulse", "Target", "Watch", "body", "fire"]


def fire(
    target: Target,
    requests: Sequence[Request],
    load: Load,
    on_record: Callable[[RequestRecord], None],
    watch: Watch = UNWATCHED,
) -> ClientStats:
    """Send all requests as `load` says; call `on_record`, in this thread, for each that has ended.

    Records come while it runs or, of answers kept unparsed (see backlog.py), right after the timed part.

    `watch.stop`, once set, or Ctrl-C ends the run early: requests in flight are recorded as cancelled, those
    not yet sent leave no record; after Ctrl-C KeyboardInterrupt is raised again. Runs in processes of its own
    when several workers are asked for, or when this process has other threads: a live view that holds the
    interpreter lock for milliseconds would show as latency of the engine. Raises InputError before
    anything is sent when the requests cannot be expressed, MachineError when a worker cannot run.
    """
    job = Job(target=target, load=load, requests=tuple(requests))
    if target.place or target.num_workers > 1 or threading.active_count() > 1:
        from harness.client import crew

        return crew.fire(job, on_record, watch)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measured(Dispatch(job, on_record), watch))
