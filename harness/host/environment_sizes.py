"""What the engines' environments weigh, and which of them goes when it is told to."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

from harness.errors import InputError
from harness.host import engine_env

_GB = 1e9
_PARTS = (".requirements.txt", ".shims", ".log", ".lock")
"""What lies beside an environment and goes with it; a lock's file last."""


class Weighed(NamedTuple):
    """One folder of .engines/, bytes on the disk."""

    name: str
    total: int
    """With files that other environments or the downloads hold too."""
    own: int
    """What removing it frees."""


def weigh(root: Path) -> tuple[Weighed, ...]:
    """Every environment and the downloads, the heaviest first."""
    folder = engine_env.folder(root)
    found = [_weighed(path) for path in folder.iterdir() if _counts(path)] if folder.is_dir() else []
    return tuple(sorted(found, key=lambda one: -one.total))


def lines(weighed: Sequence[Weighed]) -> Iterator[str]:
    """The table, in words."""
    for one in weighed:
        yield f"{one.name:32} {one.total / _GB:6.2f} GB, removing it frees {one.own / _GB:.2f} GB"
    freed = sum(one.own for one in weighed)
    yield f"{len(weighed)} folders; `just clean --environments NAME ...` removes those named" + (
        f", all of them free at least {freed / _GB:.2f} GB" if freed else ""
    )


def remove(names: Sequence[str], root: Path, on_line: Callable[[str], None]) -> None:
    """Remove environments by name, with what describes those of other versions.

    Raises InputError for a name that is none, or one that a running process was started from.
    """
    known = {one.name: one for one in weigh(root)}
    for name in names:
        if name not in known:
            raise InputError(f"There is no environment {name!r} here; there are: {', '.join(sorted(known))}.")
        if users := _users(engine_env.folder(root) / name):
            raise InputError(f"{name} is in use by process {users[0]}; end that first (`just clean`).")
    for name in names:
        path = engine_env.folder(root) / name
        (path / engine_env.STAMP).unlink(missing_ok=True)
        shutil.rmtree(path)
        for part in _PARTS:
            beside = path.with_name(f"{name}{part}")
            shutil.rmtree(beside) if beside.is_dir() else beside.unlink(missing_ok=True)
        on_line(f"removed {name}, {known[name].own / _GB:.2f} GB freed")


def _counts(path: Path) -> bool:
    return path.is_dir() and not path.name.endswith(".shims")


def _weighed(folder: Path) -> Weighed:
    total = own = 0
    seen: dict[int, int] = {}
    for place, _, files in os.walk(folder):
        for file in files:
            with contextlib.suppress(OSError):
                state = os.lstat(os.path.join(place, file))
                seen[state.st_ino] = seen.get(state.st_ino, 0) + 1
                size = state.st_blocks * 512
                total += size if seen[state.st_ino] == 1 else 0
                own += size if seen[state.st_ino] == state.st_nlink else 0
    return Weighed(folder.name, total, own)


def _users(folder: Path) -> list[int]:
    """Processes that were started from an environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if any(f"{folder.name}/bin/" in word and "engines" in word for word in process.cmdline()[:2]):
                found.append(process.pid)
    return found
