"""`just clean`: removes what crashed harnesses left behind, and nothing that a living one uses."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from harness.containers.docker_engine import answering, connect, remove
from harness.containers.settings import LABEL
from harness.errors import MachineError
from harness.launchers import process

OnLine = Callable[[str], None]
_START_TOLERANCE_S = 1.0


def run(on_line: OnLine = print) -> int:
    """Remove leftover containers and processes, reporting each; returns how many."""
    count = clean_containers(on_line) + clean_processes(on_line)
    on_line(f"removed {count}" if count else "nothing was left over")
    return count


def leftovers() -> tuple[str, ...]:
    """What run() would remove, in words; containers only where a Docker Engine answers."""
    processes = [f"process {p.pid} of {variant}" for p, variant, _, owner in _engines() if not owner]
    containers: list[str] = []
    with contextlib.suppress(MachineError), contextlib.closing(connect()) as client, answering("looking"):
        for container in client.containers.list(all=True, filters={"label": LABEL}):
            if not owner_of(container.labels):
                containers.append(f"container {container.name}")
    return (*containers, *processes)


def clean_containers(on_line: OnLine) -> int:
    """Containers of harnesses that are gone. Without Docker there are none, and that is said."""
    try:
        client = connect()
    except MachineError as error:
        on_line(f"containers were not looked at: {error.message}")
        return 0
    count = 0
    with contextlib.closing(client), answering("removing leftovers"):
        for container in client.containers.list(all=True, filters={"label": LABEL}):
            owner = owner_of(container.labels)
            if owner:
                on_line(f"left alone: container {container.name}, {owner}")
                continue
            remove(container)
            _remove_files(container)
            on_line(f"removed container {container.name}")
            count += 1
    return count


def owner_of(labels: dict[str, str]) -> str:
    """Who still uses a container, in words; "" when its harness is gone."""
    if labels.get(f"{LABEL}.pid-namespace") != os.readlink("/proc/self/ns/pid"):
        return "started from another container: remove it there, or with docker rm -f"
    pid = int(labels.get(f"{LABEL}.pid") or 0)
    try:
        started = psutil.Process(pid).create_time()
    except psutil.Error:
        return ""
    # A process id is given again; its start time tells the harness from a newcomer.
    same = abs(started - float(labels.get(f"{LABEL}.pid-started") or 0)) < _START_TOLERANCE_S
    return f"in use by the harness with process id {pid}" if same else ""


def clean_processes(on_line: OnLine) -> int:
    """Engine processes whose harness is gone."""
    count = 0
    for engine, variant, run_id, owner in _engines():
        if owner:
            on_line(f"left alone: process {engine.pid} of {variant}, in use by process {owner}")
            continue
        with contextlib.suppress(psutil.Error):
            engine.kill()
            on_line(f"killed process {engine.pid} of {variant}, run {run_id}")
            count += 1
    return count


def _engines() -> Iterator[tuple[psutil.Process, str, str, int]]:
    """(process, variant, run id, living harness or 0) of every engine process that a harness started."""
    for engine in process.survivors(""):
        with contextlib.suppress(psutil.Error, ValueError):
            # A mark is run/variant/harness pid/random.
            run_id, variant, harness = engine.environ()[process.MARK].split("/")[:3]
            used = engine.pid == os.getpid() or psutil.pid_exists(int(harness))
            yield engine, variant, run_id, int(harness) if used else 0


def _remove_files(container: Any) -> None:
    folder = Path(container.labels.get(f"{LABEL}.files") or os.devnull)
    if folder.name.startswith(f"{LABEL}-"):
        shutil.rmtree(folder, ignore_errors=True)
