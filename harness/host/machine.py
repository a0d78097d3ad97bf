"""What this machine offers to variants: the one probe that feeds label/feasible.py."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from harness import registry
from harness.containers import docker_engine
from harness.host import environment
from harness.registry import ROOT
from harness.schema import Machine

_FIND = "import importlib.util as u, sys; print(*[p for p in sys.argv[1:] if u.find_spec(p)])"


def probe() -> Machine:
    """GPUs, Docker Engine and images, engine packages. Starts nothing."""
    gpus = environment.find_gpus()
    docker = docker_engine.version()
    return Machine(
        accelerator=environment.accelerator(gpus),
        gpus=gpus,
        docker=docker,
        images=docker_engine.image_names() if docker else (),
        importable=_importable(),
        environments=tuple(
            sorted(name for folder in registry.engine_folders() for name in _described(folder))
        ),
        num_cpus=len(os.sched_getaffinity(0)),
        free_disk_gb=round(shutil.disk_usage(ROOT).free / 1e9, 1),
    )


def _described(folder: Path) -> Iterator[str]:
    return (path.name.split(".")[0] for path in folder.glob("*.requirements.txt"))


def _importable() -> tuple[str, ...]:
    """Engine packages of the python3 on PATH, found without importing them."""
    engines = {v.engine for v in registry.variants().values() if v.image}
    command = ["python3", "-c", _FIND, *sorted(map(registry.package, engines))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(done.stdout.split())
