"""A client process of its own: `python -m harness.client.worker` speaks frames on its standard pipes.

In: the job, then the start time (ns on the monotonic clock, which processes of one host share), then
nothing; when its input closes the worker stops. Out: see frames.py.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from typing import BinaryIO

import msgspec
import uvloop

from harness.client.dispatch import Dispatch
from harness.client.frames import Finished, Outbox, Ready, Record, Refused
from harness.client.shard import Job, Result
from harness.client.window import Watch, measured
from harness.errors import HarnessError, InputError


def main() -> None:
    """Do one job."""
    out = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source = sys.stdin.buffer
    job = msgspec.msgpack.decode(_read(source), type=Job)
    outbox = Outbox(out)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_work(job, outbox, source))
    outbox.flush()


async def _work(job: Job, outbox: Outbox, source: BinaryIO) -> None:
    loop = asyncio.get_running_loop()
    stop = threading.Event()

    async def gate() -> int:
        outbox.send(Ready())
        start = int.from_bytes(await loop.run_in_executor(None, source.read, 8), "big")
        os.set_blocking(source.fileno(), False)
        loop.add_reader(source.fileno(), stop.set)
        if not start:
            stop.set()
        return start

    dispatch = Dispatch(job.target, job.requests, job.load, lambda r: outbox.send(Record(record=r)))
    try:
        stats = await measured(dispatch, Watch(stop, outbox.send), gate)
    except HarnessError as error:
        outbox.send(Refused(error=error.message, user_error=isinstance(error, InputError)))
    else:
        outbox.send(Finished(result=Result(stats=stats, late_ns=dispatch.late_ns.tobytes())))
    finally:
        loop.remove_reader(source.fileno())


def _read(source: BinaryIO) -> bytes:
    return source.read(int.from_bytes(source.read(8), "big"))


if __name__ == "__main__":
    main()
