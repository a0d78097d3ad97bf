"""`just doctor`: what this machine has, what it lacks and what to do, and which variants can run here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness import models, registry
from harness.host.inspection import Inspection, inspect
from harness.label.feasible import feasible
from harness.schema import Noun

_LARGE_WEIGHTS_GB = 700.0
"""DeepSeek-R1, the largest model of models.toml, with its tokenizer and index."""
_LARGE_IMAGE_GB = 60.0
_IDLE_GPU_GB = 1.5
"""Drivers and displays take up to this much of an idle GPU."""
_SHM_GB = 16.0
_OPEN_FILES = 65536


class Check(Noun):
    """One thing looked at. `advice` is what to do when it is not ok."""

    name: str
    state: Literal["ok", "warn", "missing", "info"]
    detail: str
    advice: str = ""


def checks(found: Inspection) -> tuple[Check, ...]:
    """Everything but the variants, in the order a person would look."""
    return (
        *_accelerators(found),
        *_gpu_use(found),
        *_docker(found),
        *_disks(found),
        *_limits(found),
        *_ports(found),
        *_hub(found),
    )


def verdicts(found: Inspection) -> tuple[Check, ...]:
    """One line per variant: can it run here with its default model, else why not."""
    lines = []
    for name, variant in registry.variants().items():
        if not variant.model:
            continue
        reason = feasible(variant, found.machine, models.resolve(variant.model))
        lines.append(Check(name=name, state="info" if reason else "ok", detail=reason or "can run here"))
    return tuple(lines)


def _accelerators(found: Inspection) -> Iterator[Check]:
    machine = found.machine
    if not machine.gpus:
        yield Check(name="accelerators", state="info", detail="none: CPU variants only")
    for gpu in machine.gpus:
        driver = f", driver {gpu.driver}" if gpu.driver else ""
        detail = f"{gpu.name}, {gpu.memory_gb:g} GB{driver}"
        yield Check(name=f"GPU {gpu.index}", state="ok", detail=detail)
    if machine.accelerator == "rocm":
        state: Literal["ok", "missing"] = "ok" if found.kfd and found.dri else "missing"
        detail = f"/dev/kfd {_yes(found.kfd)}, /dev/dri {_yes(found.dri)}"
        yield Check(name="AMD devices", state=state, detail=detail, advice="load the amdgpu driver")
    if machine.accelerator == "cuda":
        yield Check(
            name="NVIDIA toolkit",
            state="ok" if found.nvidia_toolkit else "missing",
            detail=_yes(found.nvidia_toolkit),
            advice="install the NVIDIA Container Toolkit, else containers get no GPU",
        )


def _yes(present: bool) -> str:
    return "present" if present else "absent"


def _gpu_use(found: Inspection) -> Iterator[Check]:
    for use in found.gpu_use:
        if use.used_gb > _IDLE_GPU_GB:
            who = ", ".join(use.processes) or "no process this user may see"
            yield Check(
                name=f"GPU {use.index} memory",
                state="warn",
                detail=f"{use.used_gb:g} GB in use by {who}",
                advice="stop what is left over (`just clean` removes containers of this harness)",
            )


def _docker(found: Inspection) -> Iterator[Check]:
    version = found.machine.docker
    yield Check(
        name="Docker Engine",
        state="ok" if version else "missing",
        detail=version or "does not answer",
        advice="start dockerd, or use launcher=process",
    )
    named = {variant.image for variant in registry.variants().values() if variant.image}
    for image in sorted(named & set(found.image_digests)):
        yield Check(name="image", state="ok", detail=f"{image} {found.image_digests[image]}")


def _disks(found: Inspection) -> Iterator[Check]:
    yield _space("disk, repository", found.machine.free_disk_gb, 10.0, "environments and results")
    needed_gb = _LARGE_WEIGHTS_GB if found.machine.gpus else 0.0
    yield _space("disk, weights", found.weights_disk_gb, needed_gb, "DeepSeek-R1; others need less")
    if found.images_disk_gb is not None:
        yield _space("disk, images", found.images_disk_gb, _LARGE_IMAGE_GB, "one GPU image")


def _space(name: str, free_gb: float, needed_gb: float, for_what: str) -> Check:
    return Check(
        name=name,
        state="ok" if free_gb >= needed_gb else "warn",
        detail=f"{free_gb:g} GB free",
        advice=f"{needed_gb:g} GB are needed for {for_what}",
    )


def _limits(found: Inspection) -> Iterator[Check]:
    gpus = bool(found.machine.gpus)
    yield Check(
        name="/dev/shm",
        state="ok" if found.shm_gb >= _SHM_GB or not gpus else "warn",
        detail=f"{found.shm_gb:g} GB free",
        advice=f"GPU engines exchange tensors there: give it {_SHM_GB:g} GB or more",
    )
    yield Check(name="memory", state="ok", detail=f"{found.memory_gb:g} GB available")
    yield Check(
        name="locked memory",
        state="ok" if found.memlock == "unlimited" or not gpus else "warn",
        detail=f"limit {found.memlock}",
        advice="RDMA and MORI lock memory: ulimit -l unlimited (containers get it from the harness)",
    )
    yield Check(
        name="open files",
        state="ok" if found.open_files >= _OPEN_FILES or not gpus else "warn",
        detail=f"limit {found.open_files}",
        advice=f"ulimit -n {_OPEN_FILES}",
    )


def _ports(found: Inspection) -> Iterator[Check]:
    for port, owner in found.busy_ports.items():
        yield Check(
            name=f"port {port}",
            state="warn",
            detail=f"in use by {owner or 'a process of another user'}",
            advice="`just bench` picks a free port; `just serve-*` takes port=",
        )


def _hub(found: Inspection) -> Iterator[Check]:
    detail = f"{'reachable' if found.hub_reachable else 'not reachable'}, token {_yes(found.hub_token)}"
    yield Check(
        name="Hugging Face",
        state="ok" if found.hub_reachable else "warn",
        detail=detail,
        advice="download weights beforehand, or set HF_HOME to a cache that holds them",
    )
    here = ", ".join(found.weights_here) or "none"
    yield Check(name="weights here", state="info", detail=here)


_MARKS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "missing": "[red]missing[/]", "info": "-"}


def run(console: Console) -> None:
    """Look at the machine and print both tables."""
    found = inspect()
    console.print(_table("This machine", checks(found)))
    console.print(_table("Variants", verdicts(found)))


def _table(title: str, lines: tuple[Check, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for line in lines:
        advice = f" ({line.advice})" if line.advice and line.state in ("warn", "missing") else ""
        table.add_row(_MARKS[line.state], escape(line.name), escape(line.detail + advice))
    return table
