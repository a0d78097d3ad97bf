"""One share of a schedule, fired by a process that shares no memory with the others.

The schedule is cut by index, conversations whole. `python -m harness.client.shard JOB` fires one share: its
index and count by flag or from SLURM_PROCID and SLURM_NTASKS (RANK and WORLD_SIZE), for a coordinator on a
shared folder (crew.py), or by hand with `--start UNIX_TIME --out FILE`. merge() joins the shares exactly.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import time
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop

from harness.client.body import Job
from harness.client.dispatch import Dispatch
from harness.client.order import groups
from harness.client.share_folder import Beat, ShareFolder
from harness.client.window import ClientStats, Gate, Pulse, Watch, measured
from harness.errors import HarnessError, InputError, MachineError
from harness.schema import Load, Noun, Request, RequestRecord

_POLL_S = 0.01


class Failure(Noun, tag="failure"):
    """Why a share could not be fired."""

    error: str
    user_error: bool = False


class Result(Noun, tag="result"):
    """How a share ended; `late_ns` lets percentiles be taken over all shares."""

    stats: ClientStats
    late_ns: bytes = b""

    @property
    def late(self) -> list[int]:
        """Lateness samples, ns."""
        values = array("q")
        values.frombytes(self.late_ns)
        return list(values)


def share(requests: Sequence[Request], index: int, count: int) -> tuple[Request, ...]:
    """Every count-th conversation (single requests count as one) with all that waits for it, in order."""
    chosen = [i for group in groups(requests)[index::count] for i in group]
    return tuple(requests[i] for i in sorted(chosen))


def load_share(load: Load, index: int, count: int) -> Load:
    """The share of the concurrency limit; due times stay as they are, so rates need no division."""
    if load.max_concurrency is None:
        return load
    part = load.max_concurrency // count + (index < load.max_concurrency % count)
    return msgspec.structs.replace(load, max_concurrency=part)


def num_shares(load: Load, requests: Sequence[Request], wanted: int) -> int:
    """Never more shares than the concurrency limit or the requests can feed."""
    limit = load.max_concurrency or (1 if load.arrival == "closed" and not load.request_rate else wanted)
    return max(1, min(wanted, limit, len(requests)))


class Merge:
    """Takes the records of all shares in any order; each request of the schedule has exactly one."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._order = {r.request_id: i for i, r in enumerate(requests)}
        self._seen = bytearray(len(requests))

    def take(self, record: RequestRecord) -> int:
        """The record's place in the schedule. Raises InputError when it is double or foreign."""
        index = self._order.get(record.request_id, -1)
        if index < 0 or self._seen[index]:
            where = "not in the schedule" if index < 0 else "in two of them"
            raise InputError(
                f"shares do not fit together: request {record.request_id} is {where}: merge shares of one job"
            )
        self._seen[index] = True
        return index

    def finish(self) -> None:
        """Raises InputError when a request has no record."""
        if missing := self._seen.count(0):
            raise InputError(f"{missing} of {len(self._seen)} requests have no record: is a share missing?")


def merge(
    shares: Iterable[Iterable[RequestRecord]], requests: Sequence[Request], *, complete: bool = True
) -> list[RequestRecord]:
    """All records in schedule order. Raises InputError when a record is double, foreign or missing.

    `complete=False`: requests that a load's duration cut off need no record.
    """
    joined = Merge(requests)
    merged = {joined.take(record): record for one in shares for record in one}
    if complete:
        joined.finish()
    return [merged[i] for i in sorted(merged)]


class Part(NamedTuple):
    """Which share of how many."""

    number: int
    total: int


def run_share(job: Job, part: Part, gate: Gate, beat: Beat) -> Result:
    """Fire one share once `gate` opens; `beat` writes its records, one JSON a line.

    Raises InputError for more shares than the concurrency limit or the requests can feed, MachineError for
    records that cannot be written.
    """
    if job.whole:
        if part.total > (most := num_shares(job.load, job.requests, part.total)):
            raise InputError(
                f"{part.total} client processes are too many for this load: start at most {most}"
            )
        mine, load = share(job.requests, *part), load_share(job.load, *part)
        job = msgspec.structs.replace(job, requests=mine, load=load, whole=False)
    encode = msgspec.json.Encoder().encode

    def on_pulse(pulse: Pulse) -> None:
        beat.pulse = pulse

    dispatch = Dispatch(job, lambda record: beat.keep(encode(record) + b"\n"))
    with beat.beating(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        stats = runner.run(measured(dispatch, Watch(beat.stop, on_pulse), gate))
    return Result(stats=stats, late_ns=dispatch.late_ns.tobytes())


def start_ns(order: str) -> int:
    """The start on this process's monotonic clock, ns, of "monotonic NS" or "unix SECONDS"."""
    clock, value = order.split()
    if clock == "monotonic":
        return int(value)
    return time.monotonic_ns() + int((float(value) - time.time()) * 1e9)


def main(argv: Sequence[str] | None = None) -> None:
    """Run one share of a job file (msgpack, see write_job)."""
    parser = argparse.ArgumentParser(prog="python -m harness.client.shard", description=main.__doc__)
    parser.add_argument("job", type=Path)
    parser.add_argument("--index", type=int, default=_variable("SLURM_PROCID", "RANK", otherwise=0))
    parser.add_argument("--count", type=int, default=_variable("SLURM_NTASKS", "WORLD_SIZE", otherwise=1))
    parser.add_argument("--start", type=float, help="wall-clock start, seconds since 1970")
    parser.add_argument("--out", type=Path, help="file for the records; needs --start")
    words = parser.parse_args(argv)
    try:
        job, part = read_job(words.job), Part(words.index, words.count)
        if words.start is None or words.out is None:
            crew_share(job, part, ShareFolder(words.job.parent))
        else:
            print(msgspec.json.encode(alone(job, part, words.start, words.out).stats).decode())
    except HarnessError as error:
        parser.exit(error.exit_code, f"{error}\n")


def _variable(*names: str, otherwise: int) -> int:
    """What a scheduler (Slurm, torchrun, Ray) says in the environment."""
    return next((int(os.environ[name]) for name in names if name in os.environ), otherwise)


def alone(job: Job, part: Part, start_unix_s: float, out: Path) -> Result:
    """One share without a coordinator. Raises InputError, MachineError."""

    async def gate() -> int:
        return start_ns(f"unix {start_unix_s}")

    return run_share(job, part, gate, Beat(out))


def crew_share(job: Job, part: Part, folder: ShareFolder) -> None:
    """One share for a coordinator that waits in `folder`. Its errors are its ended file, for that to tell."""
    beat = Beat(folder.share(part.number), folder, part.number)

    async def gate() -> int:
        folder.publish("ready", part.number, str(part.total).encode())
        while not (orders := folder.orders()):
            if beat.orphaned:
                raise MachineError("whoever started this client process is gone")
            await asyncio.sleep(_POLL_S)
        return start_ns(orders[0])

    try:
        end: Result | Failure = run_share(job, part, gate, beat)
    except HarnessError as error:
        end = Failure(error=error.message, user_error=isinstance(error, InputError))
    folder.publish("ended", part.number, msgspec.msgpack.encode(end))
    if beat.orphaned and not job.whole:  # nobody is left on this host to read it
        shutil.rmtree(folder.path, ignore_errors=True)


def write_job(path: Path, job: Job) -> None:
    """Write a job file that every host can read."""
    path.write_bytes(msgspec.msgpack.encode(job))


def read_job(path: Path) -> Job:
    """Read a job file. Raises InputError."""
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=Job)
    except OSError as error:
        raise InputError(f"job file {path} cannot be read ({error.strerror})") from error
    except msgspec.DecodeError as error:
        raise InputError(f"{path} is not a job file of this version ({error}): write it again") from error


if __name__ == "__main__":
    main()
