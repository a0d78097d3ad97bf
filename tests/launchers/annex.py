"""A launcher as one file, for tests only: engines run in a folder of their own, at an address of their own.

The annex ($ANNEX) stands for a node with a file system of its own: weights and traces have other paths there.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from msgspec.structs import replace

from harness.launchers import Server, process
from harness.registry import ROOT
from harness.schema import Deployment, Launch, Machine, Variant

OWNS_SERVER = True
ELSEWHERE = False
ADDRESS = "127.0.0.2"

environment = process.environment
python = process.python


def annex() -> Path:
    """Its folder."""
    return Path(os.environ["ANNEX"])


def missing(variant: Variant, machine: Machine) -> str:
    """The folder must be there."""
    return "" if annex().is_dir() else f"{annex()} is not there; make it"


def deployed(deployment: Deployment, variant: Variant) -> Deployment:
    """Weights by their alias; the engine listens at the annex's own address."""
    path = str(annex() / "weights" / deployment.model.alias)
    return replace(deployment, model_path=path, host=ADDRESS, root=str(ROOT), files=str(annex()))


def fitted(launch: Launch, deployment: Deployment, variant: Variant) -> Launch:
    """Its address, and what must be visible there."""
    mounts = {**launch.mounts, deployment.model.path: deployment.model_path}
    return replace(launch, host=ADDRESS, mounts=mounts)


def inside(launch: Launch, folder: Path, name: str, writable: bool = True) -> tuple[Launch, str]:
    """Under its own name."""
    path = str(annex() / name)
    mounts = {host: seen for host, seen in launch.mounts.items() if seen != path}
    return replace(launch, mounts={**mounts, str(folder.resolve()): path}), path


def answering(launch: Launch) -> None:
    """Nothing to ask."""


def start(launch: Launch, log_path: Path, run_id: str) -> Server:
    """Links for mounts, then the command from within the annex."""
    for host, seen in launch.mounts.items():
        Path(seen).parent.mkdir(parents=True, exist_ok=True)
        Path(seen).unlink(missing_ok=True)
        Path(seen).symlink_to(host)
    return process.start(replace(launch, argv=("env", "-C", str(annex()), *launch.argv)), log_path, run_id)


def by_hand(launch: Launch) -> str:
    """The links and the command."""
    links = [f"ln -sfn {shlex.quote(host)} {shlex.quote(seen)}" for host, seen in launch.mounts.items()]
    return "\n".join([*links, f"cd {shlex.quote(str(annex()))}", process.by_hand(launch)])
