"""Who measures: one bench per run folder, and a word about another bench on the same machine."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from harness import store
from harness.errors import InputError

MACHINE_LOCK = Path(tempfile.gettempdir()) / "serving-harness.lock"


@contextlib.contextmanager
def alone(run: Path, tell: Callable[[str], None], machine_lock: Path = MACHINE_LOCK) -> Iterator[None]:
    """Hold the run folder, made if need be; `tell` hears of another bench that this machine runs.

    Locks are the kernel's: they end with the process, however it ends. A file system without locks holds
    nobody back. Raises InputError when another bench measures into this folder, StoreError when it cannot
    be made.
    """
    with store.writing(run):
        run.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        if _lock(held, run, os.O_RDONLY) is None:
            raise InputError(
                f"Another bench measures into {run} right now; wait until it has ended, or give another "
                "run_id=."
            )
        beside = _beside(held, run.name, machine_lock)
        if beside:
            tell(
                f"another bench runs on this machine ({beside}): unless each has cores and GPUs of its own, "
                "both disturb each other; stop one, or wait"
            )
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # empty when what was asked for was refused
                run.rmdir()


def _lock(held: contextlib.ExitStack, path: Path, flags: int) -> int | None:
    """A descriptor of `path` that holds its lock, None when another process does; -1 where nothing locks."""
    try:
        fd = os.open(path, flags, 0o666)
    except OSError:
        return -1
    held.callback(os.close, fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return None if error.errno == errno.EWOULDBLOCK else -1
    return fd


def _beside(held: contextlib.ExitStack, run_id: str, machine_lock: Path) -> str:
    """Process and run of the bench that holds this machine's lock; "" when it is ours now."""
    fd = _lock(held, machine_lock, os.O_RDWR | os.O_CREAT)
    if fd is None:
        with contextlib.suppress(OSError):
            return machine_lock.read_text(encoding="utf-8")
        return "of another user"
    if fd >= 0:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"process {os.getpid()}, run {run_id}".encode(), 0)
    return ""
