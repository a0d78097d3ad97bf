"""Client processes that fire one schedule together, here (workers=N) or wherever a scheduler places them.

place="srun --nodes=4 --ntasks=4" runs that command with `python -m harness.client.shard JOB` behind it; for
workers=N the same program is started N times from here. Either way they share a folder (share_folder.py) and
no memory: each opens its connections and says so with a file; when all have, a start time is written; their
records are taken in while they grow, each once. The start is on the monotonic clock, which processes of one
host share; for other hosts on the wall clock.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from harness.client.body import Job, Target
from harness.client.shard import Failure, Merge, Result, load_share, num_shares, share, write_job
from harness.client.share_folder import STOP, ShareFolder
from harness.client.window import UNWATCHED, ClientStats, Watch, cpu_seconds, percentile, signals_held
from harness.errors import InputError, MachineError
from harness.schema import RequestRecord

_LEAD_NS = 50_000_000
_PLACED_LEAD_S = 1.0
"""From the writing of the start time to the start: a shared folder is seen late elsewhere."""
_POLL_S = 0.02
_LOOK_S = 0.05
"""Between two looks at those that fire: each look takes CPU from the server beside them."""
_INTAKE_S = 0.25
"""How often the records that have come are taken in."""
_STOP_S = 20.0
"""Longest that called-off processes may take to end."""
_LATE_S = 5.0
"""How long a share's end is looked for once its process is over: files of other hosts are seen late."""
_KILL_S = 10.0
_ROOT = Path(__file__).resolve().parents[2]
_TAIL = 2000

Keep = Callable[[RequestRecord], None]


def fire(job: Job, on_record: Keep, watch: Watch = UNWATCHED) -> ClientStats:
    """client.fire() by processes of their own. Raises InputError, MachineError."""
    with _opened(job.target) as folder, _started(_commands(job, folder), folder, job.target) as processes:
        crew = _Crew(job, folder, processes)
        crew.gather()
        crew.begin()
        return crew.work(on_record, watch)


@contextlib.contextmanager
def _opened(target: Target) -> Iterator[ShareFolder]:
    """A folder that all client processes see and that is gone afterwards."""
    parent = Path(target.share_folder or ("." if target.place else tempfile.gettempdir())).absolute()
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".shares-", dir=parent) as name:
        folder = ShareFolder(Path(name))
        folder.open()
        yield folder


def _commands(job: Job, folder: ShareFolder) -> list[list[str]]:
    """What starts the client processes: one command that places all of them, or one each."""
    alone = msgspec.structs.replace(job.target, place=(), share_folder="", num_workers=1)
    shard = [sys.executable, "-m", "harness.client.shard"]
    if job.target.place:
        write_job(folder.job(), msgspec.structs.replace(job, target=alone))
        return [[*job.target.place, *shard, str(folder.job())]]
    count = num_shares(job.load, job.requests, job.target.num_workers)
    for index in range(count):
        load, requests = load_share(job.load, index, count), share(job.requests, index, count)
        write_job(folder.job(index), Job(target=alone, load=load, requests=requests, whole=False))
    return [[*shard, str(folder.job(i)), "--index", str(i), "--count", str(count)] for i in range(count)]


class _Crew:
    """The client processes of one fire()."""

    def __init__(self, job: Job, folder: ShareFolder, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        self._job, self._folder, self._processes = job, folder, processes
        self._merge = Merge(job.requests)
        self._count = 0
        self._start_ns = 0
        self._bytes_read: list[int] = []
        self._cpu_at: list[tuple[int, float]] = []
        """CPU time of this process at times on the monotonic clock."""
        self._results: dict[str, Result] = {}
        """Of those that have ended, by the name of the file that says so."""
        self._decode = msgspec.json.Decoder(RequestRecord).decode

    def gather(self) -> None:
        """Wait until all are ready. Raises what one of them could not do, or MachineError."""
        limit_s = self._job.target.place_wait_s if self._job.target.place else math.inf
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            num_over = self._num_over
            self._look_for_ends()
            ready = self._folder.published("ready")
            if ready and len(ready) == int(ready[0].read_text()):
                self._count = len(ready)
                self._bytes_read = [0] * self._count
                return
            if num_over:
                raise self._gone()
            time.sleep(_POLL_S)
        raise MachineError(
            f"not all client processes were ready within {limit_s:g} s: see the scheduler's queue, or wait "
            "longer with place_wait_s=",
            details=self._last_lines,
        )

    def begin(self) -> None:
        """All start at one time."""
        self._start_ns = time.monotonic_ns() + _LEAD_NS
        self._cpu_at = [(self._start_ns, cpu_seconds())]
        if self._job.target.place:
            self._folder.order(f"unix {time.time() + _PLACED_LEAD_S!r}")
        else:
            self._folder.order(f"monotonic {self._start_ns}")

    def work(self, on_record: Keep, watch: Watch) -> ClientStats:
        """Take in what they tell until all have ended. After Ctrl-C, once what was in flight is recorded,
        KeyboardInterrupt goes on. Raises InputError, MachineError.
        """
        try:
            self._until_ended(on_record, watch)
        except KeyboardInterrupt:
            self._folder.order(STOP)
            with contextlib.suppress(MachineError):
                self._until_ended(on_record, Watch(None, watch.on_pulse), time.monotonic() + _STOP_S)
            raise
        results = list(self._results.values())
        stats = merged(results, *self._own_cpu_s(results))
        if self._job.load.duration_s is None and not stats.interrupted:
            self._merge.finish()
        return stats

    def _until_ended(self, on_record: Keep, watch: Watch, deadline: float = math.inf) -> None:
        stopped, due_s, over_s = False, 0.0, math.inf
        while True:
            self._look_for_ends()
            num_ended = len(self._results)
            if time.monotonic() >= due_s or num_ended == self._count:
                with signals_held():
                    self._take_in(on_record)
                if watch.on_pulse:
                    watch.on_pulse(self._folder.pulse())
                due_s = time.monotonic() + _INTAKE_S
            if num_ended == self._count:
                return
            if watch.stop and watch.stop.is_set() and not stopped:
                self._folder.order(STOP)
                stopped = True
            if self._num_over * (self._count // len(self._processes)) > num_ended:
                over_s = min(over_s, time.monotonic())
            if time.monotonic() > min(deadline, over_s + _LATE_S):
                raise self._gone()
            time.sleep(_LOOK_S)

    def _take_in(self, on_record: Keep) -> None:
        """All whole lines that are new. Raises InputError for shares that do not fit together."""
        self._cpu_at.append((time.monotonic_ns(), cpu_seconds()))
        for index in range(self._count):
            # Opened anew each time: that is when a network file system looks for what others wrote.
            with contextlib.suppress(FileNotFoundError), self._folder.share(index).open("rb") as file:
                file.seek(self._bytes_read[index])
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._bytes_read[index] += len(line)
                    record = self._decode(line)
                    self._merge.take(record)
                    on_record(record)

    @property
    def _num_over(self) -> int:
        """Commands that have ended."""
        return sum(process.poll() is not None for process in self._processes)

    def _own_cpu_s(self, results: Sequence[Result]) -> tuple[float, float]:
        """CPU time of this process in the timed part and after it, where all share one host."""
        if self._job.target.place:
            return 0.0, 0.0
        end_ns = self._start_ns + max(result.stats.duration_s for result in results) * 1e9
        now = cpu_seconds()
        at_end = next((cpu for at_ns, cpu in self._cpu_at if at_ns >= end_ns), now)
        return at_end - self._cpu_at[0][1], now - at_end

    def _look_for_ends(self) -> None:
        """Who has ended, and how. Raises what a client process could not do."""
        for path in self._folder.published("ended"):
            if path.name in self._results:
                continue
            end = msgspec.msgpack.decode(path.read_bytes(), type=Result | Failure)
            if isinstance(end, Failure):
                raise InputError(end.error) if end.user_error else MachineError(end.error)
            self._results[path.name] = end

    def _gone(self) -> MachineError:
        """A command has ended before its client processes have."""
        codes = ", ".join(str(p.returncode) for p in self._processes if p.returncode is not None)
        what = "the command of place= ended" if self._job.target.place else "a client process ended"
        return MachineError(
            f"{what} (exit code {codes}) before all requests did: read the last lines below",
            details=self._last_lines,
        )

    @property
    def _last_lines(self) -> str:
        return self._folder.output.read_text("utf-8", "replace")[-_TAIL:]


@contextlib.contextmanager
def _started(
    commands: Sequence[Sequence[str]], folder: ShareFolder, target: Target
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The commands, with their output in a file; nothing of them is left afterwards."""
    processes: list[subprocess.Popen[bytes]] = []
    with folder.output.open("wb") as output:
        try:
            for argv in commands:
                processes.append(_start(argv, output))
            yield processes
            for process in processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(target.place_wait_s)
        finally:
            _end(processes)


def _start(argv: Sequence[str], output: BinaryIO) -> subprocess.Popen[bytes]:
    """A command in a session of its own: Ctrl-C is for this process, which asks the others to stop."""
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH", ""))))
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
    except OSError as error:
        raise InputError(
            f"place={argv[0]} cannot be started ({error.strerror}): name a command that starts what "
            "stands behind it, such as srun --ntasks=2"
        ) from error


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End the commands and what they started on this host; a scheduler ends the rest."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_KILL_S)
        if all(process.returncode is not None for process in processes):
            return


def merged(results: Sequence[Result], own_cpu_s: float, own_later_cpu_s: float) -> ClientStats:
    """Figures of all shares together; lateness is taken over all their requests."""
    late = sorted(ns for result in results for ns in result.late)
    stats = [result.stats for result in results]
    return ClientStats(
        started_at=min(s.started_at for s in stats),
        duration_s=max(s.duration_s for s in stats),
        cpu_s=sum(s.cpu_s for s in stats) + own_cpu_s,
        later_cpu_s=sum(s.later_cpu_s for s in stats) + own_later_cpu_s,
        num_in_flight_max=sum(s.num_in_flight_max for s in stats),
        num_connections=sum(s.num_connections for s in stats),
        num_workers=len(stats),
        late_p50_s=percentile(late, 50) / 1e9,
        late_p99_s=percentile(late, 99) / 1e9,
        interrupted=any(s.interrupted for s in stats),
        stood_still_s=max(s.stood_still_s for s in stats),
    )
