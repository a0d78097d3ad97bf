"""Launchers: the ways an engine comes to run. A launcher is one file of this folder; its name is the file's.

Launchers that are not for this repository lie in folders of their own: HARNESS_LAUNCHERS=/folder[:/folder].
"""

from __future__ import annotations

import os
import shlex
from functools import cache
from pathlib import Path
from typing import Protocol, cast

from harness import registry
from harness.errors import InputError
from harness.schema import Deployment, Launch, Machine, Variant

HERE = Path(__file__).parent
_NODES = "slurm"


class Server(Protocol):
    """A started engine. Owns what it started and nothing else."""

    def poll(self) -> int | None:
        """Exit code, or None while it runs."""

    def stop(self, grace_s: float) -> None:
        """Ask it to end, then force it; idempotent. Afterwards nothing of the engine is left."""

    def describe_exit(self) -> str:
        """How it ended, in words: "exit code 137, killed for memory"."""

    def process_evidence(self) -> tuple[tuple[str, ...], dict[str, str]]:
        """Command line and environment of the running engine as the system shows them."""

    @property
    def url(self) -> str:
        """Where clients reach it, where only its start tells; "" = where the launch says."""


class Launcher(Protocol):
    """What a launcher's file offers: every answer that depends on where an engine runs."""

    OWNS_SERVER: bool
    """Whether it starts the engine, and so may stop it, empty its cache by a new start, choose its port."""

    ELSEWHERE: bool
    """Whether engines run on other machines, so that this one's accelerators and memory say nothing."""

    def missing(self, variant: Variant, machine: Machine) -> str:
        """What this machine lacks for it to start the variant, weights apart; "" when nothing."""

    def deployed(self, deployment: Deployment, variant: Variant) -> Deployment:
        """The deployment as the engine will see it: weights, interpreter, folders, address to listen at."""

    def fitted(self, launch: Launch, deployment: Deployment, variant: Variant) -> Launch:
        """The launch with what it needs there beyond a command: image, mounts, the address clients use."""

    def inside(self, launch: Launch, folder: Path, name: str, writable: bool = True) -> tuple[Launch, str]:
        """A folder of this machine shown to the engine: (launch, its path there).

        `name` is what to call it where it cannot keep its path.
        """

    def environment(self, launch: Launch) -> dict[str, str]:
        """Every variable that the engine will see and this harness knows of."""

    def answering(self, launch: Launch) -> None:
        """Before a run: raises HarnessError when the start is sure to fail."""

    def start(self, launch: Launch, log_path: Path, run_id: str) -> Server:
        """Start what `launch` says; its output goes to log_path.

        Raises LaunchError when it cannot even be started.
        """

    def by_hand(self, launch: Launch) -> str:
        """The shell commands that do the same, from the repository's root; secrets by name only."""

    def python(self, launch: Launch, script: Path, *words: str) -> str:
        """What a script of ours prints, run by the engine's Python, where and with what the engine runs.

        Raises MachineError that says why it could not be run.
        """


def names() -> tuple[str, ...]:
    """Every launcher."""
    return tuple(sorted({p.stem for f in _folders() for p in f.glob("*.py") if p.stem != "__init__"}))


@cache
def named(name: str) -> Launcher:
    """The launcher <name>.py. Raises InputError that lists what exists."""
    if name not in names():
        raise InputError(f"There is no launcher {name!r}. There are: {', '.join(names())}.")
    return cast(Launcher, registry.module("harness.launchers", name, _folders()))


def of(launch: Launch) -> Launcher:
    """The launcher that starts it."""
    return named(launch.launcher)


def by_hand(launch: Launch) -> str:
    """What a person would type; of a stored launch whose launcher is not here, its words alone."""
    if launch.launcher in names():
        return of(launch).by_hand(launch)
    return f"# by the launcher {launch.launcher}, which is not here\n{shlex.join(launch.argv)}"


def chosen(asked: str | None, variant: Variant, machine: Machine, contained: bool = False) -> str:
    """The launcher asked for, else the usual one. Raises InputError for one that starts too few machines."""
    if asked and variant.nodes > 1 and not named(asked).ELSEWHERE:
        raise InputError(
            f"launcher={asked} starts engines on one machine, and {variant.name} takes {variant.nodes}; "
            f"leave it out, or give launcher={_NODES}."
        )
    return asked or usual(variant, machine, contained)


def usual(variant: Variant, machine: Machine, contained: bool = False) -> str:
    """The launcher of a variant when nobody names one.

    The engine's own if its file names one (LAUNCHER); containers where they are asked for, and for images of
    accelerators, unless this machine has no Docker Engine but the engine itself: then it is such a container.
    Several nodes are Slurm's.
    """
    if variant.nodes > 1:
        return _NODES
    if own := registry.fact(variant.engine, "LAUNCHER", ""):
        return str(own)
    installed = registry.package(variant.engine) in machine.importable
    inside_one = not machine.docker and machine.accelerator == variant.accelerator and installed
    usually = bool(variant.image) and variant.accelerator != "cpu" and not inside_one
    return "docker" if contained or usually else "process"


def _folders() -> tuple[Path, ...]:
    """This one, then those of $HARNESS_LAUNCHERS."""
    return (HERE, *(Path(p) for p in os.environ.get("HARNESS_LAUNCHERS", "").split(":") if p))
