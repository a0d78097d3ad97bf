"""Engines on one node or several of a Slurm cluster: one srun, an agent on each node, a rank under each.

Inside an allocation (salloc, sbatch) its nodes are used; outside, srun asks for some with the words of srun=.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from msgspec.structs import replace

from harness import launchers, registry
from harness.blotting import blotting
from harness.errors import InputError, LaunchError, MachineError
from harness.ranks import plans
from harness.ranks.agent import Job, Shown
from harness.ranks.step import Step, address, gather
from harness.schema import Deployment, Launch, Machine, Variant
from harness.secrets import secrets_of

OWNS_SERVER = True
ELSEWHERE = True
_START_S = 60.0


def missing(variant: Variant, machine: Machine) -> str:
    """Slurm's own programs; what the nodes lack is told when they are looked at."""
    if registry.fact(variant.engine, "MPI", False) and variant.nodes > 1:
        return (
            "its ranks are one world of MPI in containers of Slurm's own: `just plan ... as=slurm` for sbatch"
        )
    here = shutil.which("srun")
    return "" if here else "there is no srun here; `just plan ... as=script` shows what to type on each node"


def _inner(contained: bool) -> str:
    return "docker" if contained else "process"


def _contained(variant: Variant) -> bool:
    return bool(variant.image) and variant.accelerator != "cpu"


def deployed(deployment: Deployment, variant: Variant) -> Deployment:
    """As on one machine, in a container where the image is for accelerators; reached from outside."""
    inner = launchers.named(_inner(_contained(variant))).deployed(deployment, variant)
    return replace(inner, host="0.0.0.0")


def fitted(launch: Launch, deployment: Deployment, variant: Variant) -> Launch:
    """What the node's own launcher adds. Raises InputError for an engine that knows one node only."""
    if len(launch.ranks) != variant.nodes:
        raise InputError(
            f"{variant.engine} runs on one node only, engines/{variant.engine}.py says nothing of others; "
            "leave nodes= out."
        )
    contained = _contained(variant)
    inner = launchers.named(_inner(contained)).fitted(launch, deployment, variant)
    return replace(inner, host_network=contained)


def inside(launch: Launch, folder: Path, name: str, writable: bool = True) -> tuple[Launch, str]:
    """As the node's own launcher shows it; the folder must be on a disk that the node sees."""
    return launchers.named(_inner(bool(launch.image))).inside(launch, folder, name, writable)


def environment(launch: Launch) -> dict[str, str]:
    """srun hands this shell's variables on to processes; containers get none of them."""
    return launchers.named(_inner(bool(launch.image))).environment(launch)


def answering(launch: Launch) -> None:
    """The start is the check."""


def by_hand(launch: Launch) -> str:
    """A file for sbatch."""
    return plans.slurm(launch)


def python(launch: Launch, script: Path, *words: str) -> str:
    """Raises MachineError."""
    raise MachineError("the engine and its torch are on other nodes")


class SlurmServer:
    """An engine whose ranks run under one srun."""

    def __init__(self, step: Step, url: str, interface: str) -> None:
        self._step, self._interface = step, interface
        self.url = url

    def poll(self) -> int | None:
        """None while every rank runs."""
        return 1 if self._step.fault else self._step.process.poll()

    def stop(self, grace_s: float) -> None:
        """Have each node's agent stop its rank, then end srun."""
        self._step.stop(grace_s + 5.0)

    def describe_exit(self) -> str:
        """The first thing that went wrong, by rank and node."""
        return self._step.fault or "srun ended although nobody asked it to"

    def process_evidence(self) -> tuple[tuple[str, ...], dict[str, str]]:
        """Of the first rank. What every rank's node counted on its network goes into the log."""
        try:
            shown = self._step.ask("show", "shown", Shown, 10.0)
        except LaunchError:
            return (), {}
        for rank, each in enumerate(shown):
            device = self._interface or max(each.sent, key=lambda name: each.sent[name], default="nothing")
            joined = "joined" if each.joined else "not joined"
            sent = f"sent {each.sent.get(device, 0)} bytes over {device}"
            self._step.say(f"{self._step.name(rank)}: {joined}, {sent}", rank)
        return shown[0].cmdline, shown[0].environ


def start(launch: Launch, log_path: Path, run_id: str) -> SlurmServer:
    """Agents on all nodes; once those go together, the ranks. Raises LaunchError that names the odd node."""
    job = Job(launch=launch, run_id=run_id, inner=_inner(bool(launch.image)))
    with blotting(log_path, secrets_of(launch)) as (log, _):
        step = Step(job, log)
    try:
        gathered = gather(step, launch)
        if gathered.faults:
            raise LaunchError(
                f"{launch.variant} was not started: {'; '.join(gathered.faults)}. Mend it, or leave the node "
                "out (srun=--exclude=NODE)."
            )
        step.ask(f"start {gathered.head}", "started", str, _START_S)
    except BaseException:
        step.stop(launch.stop_grace_s)
        raise
    return SlurmServer(step, f"http://{address(step.nodes[0])}:{launch.port}", launch.interface)
