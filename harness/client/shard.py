"""One share of a schedule, fired by a process that shares no memory with the others.

The schedule is cut by index, conversations whole. Two ways to run a share:

* as a worker of workers.py: job and start time come in by pipe, records go out by pipe;
* anywhere, placed by any scheduler: `python -m harness.client.shard JOB`, its index and count by flag or from
  SLURM_PROCID and SLURM_NTASKS (RANK and WORLD_SIZE), for a coordinator on a shared folder (placed.py), or by
  hand with `--start UNIX_TIME --out FILE`. merge() joins the shares exactly.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import uvloop

from harness.client.body import Target
from harness.client.conversation import chains
from harness.client.dispatch import Dispatch
from harness.client.window import ClientStats, Gate, measured
from harness.errors import HarnessError, InputError
from harness.schema import Load, Noun, Request, RequestRecord

_POLL_S = 0.02


class Job(Noun):
    """What a client is asked to do."""

    target: Target
    load: Load
    requests: tuple[Request, ...]


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
    """Every count-th conversation (single requests count as one), in schedule order."""
    following, first = chains(requests)
    chosen: list[int] = []
    for start in first[index::count]:
        at: int | None = start
        while at is not None:
            chosen.append(at)
            at = following.get(at)
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


def merge(
    shares: Iterable[Iterable[RequestRecord]], requests: Sequence[Request], *, complete: bool = True
) -> list[RequestRecord]:
    """All records in schedule order. Raises InputError when a record is double, foreign or missing.

    `complete=False`: requests that a load's duration cut off need no record.
    """
    order = {r.request_id: i for i, r in enumerate(requests)}
    merged: dict[int, RequestRecord] = {}
    for record in (record for one in shares for record in one):
        index = order.get(record.request_id, -1)
        if index < 0 or index in merged:
            where = "not in the schedule" if index < 0 else "in two of them"
            raise InputError(
                f"shares do not fit together: request {record.request_id} is {where}: merge shares of one job"
            )
        merged[index] = record
    if complete and (missing := len(requests) - len(merged)):
        raise InputError(f"{missing} of {len(requests)} requests have no record: is a share missing?")
    return [merged[i] for i in sorted(merged)]


def run_share(job: Job, index: int, count: int, out: Path, gate: Gate) -> Result:
    """Fire share `index` of `count` once `gate` opens; records go to `out`, one JSON a line.

    Raises InputError for more shares than the concurrency limit or the requests can feed.
    """
    if count > (most := num_shares(job.load, job.requests, count)):
        raise InputError(f"{count} client processes are too many for this load: start at most {most}")
    mine = share(job.requests, index, count)
    encode = msgspec.json.Encoder().encode
    with out.open("wb") as file:

        def keep(record: RequestRecord) -> None:
            file.write(encode(record) + b"\n")

        dispatch = Dispatch(job.target, mine, load_share(job.load, index, count), keep)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            stats = runner.run(measured(dispatch, gate=gate))
    return Result(stats=stats, late_ns=dispatch.late_ns.tobytes())


def at(start_unix_s: float) -> int:
    """A wall-clock time on this process's monotonic clock, ns."""
    return time.monotonic_ns() + int((start_unix_s - time.time()) * 1e9)


def main(argv: Sequence[str] | None = None) -> None:
    """Run one share of a job file (msgpack, see write_job)."""
    parser = argparse.ArgumentParser(prog="python -m harness.client.shard", description=main.__doc__)
    parser.add_argument("job", type=Path)
    parser.add_argument("--index", type=int, default=_told("SLURM_PROCID", "RANK", otherwise=0))
    parser.add_argument("--count", type=int, default=_told("SLURM_NTASKS", "WORLD_SIZE", otherwise=1))
    parser.add_argument("--start", type=float, help="wall-clock start, seconds since 1970")
    parser.add_argument("--out", type=Path, help="file for the records; needs --start")
    words = parser.parse_args(argv)
    job = read_job(words.job)
    if words.start is None or words.out is None:
        placed_share(job, words.index, words.count, words.job.parent)
        return

    async def gate() -> int:
        return at(words.start)

    print(msgspec.json.encode(run_share(job, words.index, words.count, words.out, gate).stats).decode())


def _told(*names: str, otherwise: int) -> int:
    """What a scheduler (Slurm, torchrun, Ray) says in the environment."""
    return next((int(os.environ[name]) for name in names if name in os.environ), otherwise)


def placed_share(job: Job, index: int, count: int, folder: Path) -> None:
    """One share for a coordinator that waits in `folder`: ready-I says count, go says when, share-I ends it.

    Errors of this share are its ended file, for the coordinator to tell.
    """

    async def gate() -> int:
        _publish(folder / f"ready-{index}", str(count).encode())
        while not (go := folder / "go").exists():
            await asyncio.sleep(_POLL_S)
        return at(float(go.read_text()))

    try:
        ended: Result | Failure = run_share(job, index, count, folder / f"share-{index}.jsonl", gate)
    except HarnessError as error:
        ended = Failure(error=error.message, user_error=isinstance(error, InputError))
    _publish(folder / f"ended-{index}", msgspec.msgpack.encode(ended))


def _publish(path: Path, content: bytes) -> None:
    """A file that is never seen half-written."""
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    partial.replace(path)


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
