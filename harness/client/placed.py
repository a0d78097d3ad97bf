"""Client processes that a scheduler places on any hosts: they share a folder and a wall clock, no memory.

clients="srun --nodes=4 --ntasks=4" makes fire() write the job into a folder that all hosts see and run that
command with `python -m harness.client.shard JOB` behind it. Each process opens its connections and says so
with a file; when all have, a start time is written; their shares are merged when all have ended.
"""

from __future__ import annotations

import contextlib
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
from harness.client.shard import Failure, Job, Result, merge, write_job
from harness.client.window import ClientStats
from harness.client.workers import merged
from harness.errors import InputError, MachineError
from harness.schema import Load, Request, RequestRecord

_LEAD_S = 1.0
"""From the writing of the start time to the start: a shared folder is seen late elsewhere."""
_START_S = 300.0
"""Longest that a scheduler may take to start all processes."""
_POLL_S = 0.05
_LATE_POLLS = 100
"""How often a share's end is looked for once the command is over: files of other hosts are seen late."""
_ROOT = Path(__file__).resolve().parents[2]
_TAIL = 2000


def fire(
    target: Target, requests: Sequence[Request], load: Load, on_record: Callable[[RequestRecord], None]
) -> ClientStats:
    """client.fire() by processes that target.place starts. Raises InputError, MachineError."""
    parent = Path(target.share_folder or ".").absolute()
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".shares-", dir=parent) as name:
        folder = Path(name)
        alone = msgspec.structs.replace(target, place=(), share_folder="", num_workers=1)
        write_job(folder / "job", Job(target=alone, load=load, requests=tuple(requests)))
        with _started(target.place, folder) as process:
            count = _all_ready(folder, process)
            (folder / "go.partial").write_text(repr(time.time() + _LEAD_S))
            (folder / "go.partial").replace(folder / "go")
            results = _all_ended(folder, process, count)
        decode = msgspec.json.Decoder(RequestRecord).decode
        shares = (map(decode, (folder / f"share-{i}.jsonl").read_bytes().splitlines()) for i in range(count))
        for record in merge(shares, requests, complete=load.duration_s is None):
            on_record(record)
    return merged(results, 0.0)


@contextlib.contextmanager
def _started(place: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The placing command, with its output in a file; nothing of it is left afterwards."""
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH", ""))))
    argv = [*place, sys.executable, "-m", "harness.client.shard", str(folder / "job")]
    with (folder / "output").open("wb") as output:
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
            process.wait(_START_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def _all_ready(folder: Path, process: subprocess.Popen[bytes]) -> int:
    """Number of client processes, once all are ready."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        over = process.poll() is not None
        _refused(folder)
        ready = _published(folder, "ready")
        if ready and len(ready) == int(ready[0].read_text()):
            return len(ready)
        if over:
            raise _gone(folder, process)
        time.sleep(_POLL_S)
    raise MachineError(
        f"not all client processes were ready within {_START_S:g} s: see the scheduler's queue"
    )


def _all_ended(folder: Path, process: subprocess.Popen[bytes], count: int) -> list[Result]:
    patience = _LATE_POLLS
    while len(ended := _published(folder, "ended")) < count:
        patience -= process.poll() is not None
        if patience < 0:
            raise _gone(folder, process)
        time.sleep(_POLL_S)
    _refused(folder)
    return [msgspec.msgpack.decode(path.read_bytes(), type=Result) for path in ended]


def _published(folder: Path, kind: str) -> list[Path]:
    """Whole files of one kind."""
    return sorted(path for path in folder.glob(f"{kind}-*") if not path.suffix)


def _refused(folder: Path) -> None:
    """Raises what a client process could not do."""
    for path in _published(folder, "ended"):
        found = msgspec.msgpack.decode(path.read_bytes(), type=Result | Failure)
        if isinstance(found, Failure):
            raise InputError(found.error) if found.user_error else MachineError(found.error)


def _gone(folder: Path, process: subprocess.Popen[bytes]) -> MachineError:
    """The placing command has ended before its clients have."""
    return MachineError(
        f"the command of clients= ended with exit code {process.returncode} before its clients did: read its "
        "last lines below",
        details=(folder / "output").read_text("utf-8", "replace")[-_TAIL:],
    )
