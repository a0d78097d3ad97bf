"""Client processes that a scheduler places on any hosts: they share a folder and a wall clock, no memory.

clients="srun --nodes=4 --ntasks=4" makes fire() write the job into a folder that all hosts see and run that
command with `python -m harness.client.shard JOB` behind it. Each process opens its connections and says so
with a file; when all have, a start time is written; their records are taken in while they grow, each once.
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

import msgspec

from harness.client.body import Target
from harness.client.shard import Failure, Job, Merge, Result, write_job
from harness.client.share_folder import STOP, ShareFolder
from harness.client.window import UNWATCHED, ClientStats, Pulse, Watch
from harness.client.workers import merged
from harness.errors import InputError, MachineError
from harness.schema import Load, Request, RequestRecord

_LEAD_S = 1.0
"""From the writing of the start time to the start: a shared folder is seen late elsewhere."""
_START_S = 300.0
"""Longest that a scheduler may take to start all processes, or to end when they have."""
_POLL_S = 0.05
_INTAKE_S = 0.25
"""How often the records that have come are taken in."""
_STOP_S = 20.0
"""Longest that called-off processes may take to end."""
_LATE_S = 5.0
"""How long a share's end is looked for once the command is over: files of other hosts are seen late."""
_KILL_S = 10.0
_ROOT = Path(__file__).resolve().parents[2]
_TAIL = 2000


def fire(
    target: Target,
    requests: Sequence[Request],
    load: Load,
    on_record: Callable[[RequestRecord], None],
    watch: Watch = UNWATCHED,
) -> ClientStats:
    """client.fire() by processes that target.place starts. Raises InputError, MachineError."""
    parent = Path(target.share_folder or ".").absolute()
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".shares-", dir=parent) as name:
        folder = ShareFolder(Path(name))
        folder.open()
        alone = msgspec.structs.replace(target, place=(), share_folder="", num_workers=1)
        write_job(folder.job, Job(target=alone, load=load, requests=tuple(requests)))
        with _started(target.place, folder) as process:
            count = _all_ready(folder, process)
            folder.tell(repr(time.time() + _LEAD_S))
            intake = _Intake(folder, count, Merge(requests), on_record)
            stats = merged(_until_ended(intake, process, watch), 0.0)
        if load.duration_s is None and not stats.interrupted:
            intake.merge.finish()
    return stats


class _Intake:
    """Hands on the records of growing shares, each once."""

    def __init__(
        self, folder: ShareFolder, count: int, merge: Merge, on_record: Callable[[RequestRecord], None]
    ) -> None:
        self.folder, self.count, self.merge = folder, count, merge
        self._on_record = on_record
        self._read = [0] * count
        self._decode = msgspec.json.Decoder(RequestRecord).decode

    def take(self) -> None:
        """All whole lines that are new. Raises InputError for shares that do not fit together."""
        for index in range(self.count):
            # Opened anew each time: that is when a network file system looks for what others wrote.
            with contextlib.suppress(FileNotFoundError), self.folder.share(index).open("rb") as file:
                file.seek(self._read[index])
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._read[index] += len(line)
                    record = self._decode(line)
                    self.merge.take(record)
                    self._on_record(record)


def _until_ended(intake: _Intake, process: subprocess.Popen[bytes], watch: Watch) -> list[Result]:
    """How each share ended. After Ctrl-C, once what was in flight is recorded, KeyboardInterrupt goes on."""
    try:
        return _all_ended(intake, process, watch)
    except KeyboardInterrupt:
        intake.folder.tell(STOP)
        with contextlib.suppress(MachineError):
            _all_ended(intake, process, Watch(None, watch.on_pulse), time.monotonic() + _STOP_S)
        raise


@contextlib.contextmanager
def _started(place: Sequence[str], folder: ShareFolder) -> Iterator[subprocess.Popen[bytes]]:
    """The placing command, with its output in a file; nothing of it is left afterwards."""
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH", ""))))
    argv = [*place, sys.executable, "-m", "harness.client.shard", str(folder.job)]
    with (folder.path / "output").open("wb") as output:
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )
        except OSError as error:
            raise InputError(
                f"clients={place[0]} cannot be started ({error.strerror}): name a command that starts what "
                "stands behind it, such as srun --ntasks=2"
            ) from error
        try:
            yield process
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_START_S)
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the command and what it started on this host; a scheduler ends the rest."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_KILL_S)
            return


def _all_ready(folder: ShareFolder, process: subprocess.Popen[bytes]) -> int:
    """Number of client processes, once all are ready."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        over = process.poll() is not None
        _refused(folder)
        ready = folder.published("ready")
        if ready and len(ready) == int(ready[0].read_text()):
            return len(ready)
        if over:
            raise _gone(folder, process)
        time.sleep(_POLL_S)
    raise MachineError(
        f"not all client processes were ready within {_START_S:g} s: see the scheduler's queue",
        details=_said(folder),
    )


def _all_ended(
    intake: _Intake, process: subprocess.Popen[bytes], watch: Watch, deadline: float = math.inf
) -> list[Result]:
    folder, gone_at, stopped = intake.folder, math.inf, False
    while True:
        ended = folder.published("ended")
        _refused(folder)
        intake.take()
        if len(ended) == intake.count:
            return [msgspec.msgpack.decode(path.read_bytes(), type=Result) for path in ended]
        if watch.on_pulse:
            num_in_flight, num_ended = folder.counts()
            watch.on_pulse(Pulse(num_in_flight=num_in_flight, num_ended=num_ended))
        if watch.stop and watch.stop.is_set() and not stopped:
            folder.tell(STOP)
            stopped = True
        if process.poll() is not None:
            gone_at = min(gone_at, time.monotonic())
        if time.monotonic() > min(deadline, gone_at + _LATE_S):
            raise _gone(folder, process)
        time.sleep(_INTAKE_S)


def _refused(folder: ShareFolder) -> None:
    """Raises what a client process could not do."""
    for path in folder.published("ended"):
        found = msgspec.msgpack.decode(path.read_bytes(), type=Result | Failure)
        if isinstance(found, Failure):
            raise InputError(found.error) if found.user_error else MachineError(found.error)


def _gone(folder: ShareFolder, process: subprocess.Popen[bytes]) -> MachineError:
    """The placing command has ended before its clients have."""
    return MachineError(
        f"the command of clients= ended with exit code {process.returncode} before its clients did: read its "
        "last lines below",
        details=_said(folder),
    )


def _said(folder: ShareFolder) -> str:
    return (folder.path / "output").read_text("utf-8", "replace")[-_TAIL:]
