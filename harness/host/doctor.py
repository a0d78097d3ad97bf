"""`just doctor`: what this machine has, what it lacks and what to do, and which variants can run here."""

from __future__ import annotations

from collections.abc import Iterator
from math import isinf

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness import launchers, models, registry
from harness.containers.docker_engine import how_to_get
from harness.errors import HarnessError
from harness.host import ecc, engine_env, node
from harness.host.check import Check, State
from harness.host.environment import AMD_DRIVER
from harness.host.inspection import PORTS, Inspection, inspect
from harness.label.feasible import feasible
from harness.schema import Model, Variant
from workloads import sharegpt

_GPU_IMAGE_GB, _CPU_IMAGE_GB = 60.0, 6.0
_IDLE_GPU_GB = 1.5
"""Drivers and displays take up to this much of an idle GPU."""
_SHM_GB = 16.0
_STACK_MB = 64.0
_OPEN_FILES = 65536
_DIGEST_LEN = 12


def checks(found: Inspection) -> tuple[Check, ...]:
    """Everything but the variants, in the order a person would look."""
    return (
        *_accelerators(found),
        *_devices(found),
        *_gpu_use(found),
        *ecc.checks(found.ecc, found.machine.accelerator),
        *node.checks(found.node, found.machine.accelerator, _images(found)),
        *_leftovers(found),
        *_docker(found),
        *_disks(found),
        *_limits(found),
        *_ports(found),
        *_hub(found),
    )


def verdicts(found: Inspection) -> tuple[Check, ...]:
    """One line per variant: can it run here with its default model, else why not; those that can first."""
    lines = []
    for name, variant in registry.variants().items():
        if not launchers.named(launchers.usual(variant, found.machine)).OWNS_SERVER:
            lines.append(Check(name=name, state="ok", detail=_how(variant)))
            continue
        if not variant.model:
            continue
        try:
            reason = feasible(variant, found.machine, models.resolve(variant.model))
        except HarnessError as error:
            reason = error.message
        lines.append(Check(name=name, state="info" if reason else "ok", detail=reason or _how(variant)))
    return tuple(sorted(lines, key=lambda line: line.state != "ok"))


def _how(variant: Variant) -> str:
    if variant.engine == "openai":
        return "takes a server that runs already: url=http://host:port"
    made = not variant.environment or engine_env.exists(variant.environment, registry.ROOT)
    return "can run here" if made else "can run here; its environment is made on first use"


def _accelerators(found: Inspection) -> Iterator[Check]:
    free = {use.index: use for use in found.gpu_use}
    if not found.machine.gpus:
        yield Check(name="accelerators", state="info", detail="none: CPU variants only")
    for gpu in found.machine.gpus:
        detail = f"{gpu.name}, {gpu.memory_gb:g} GiB"
        if use := free.get(gpu.index):
            detail += f", {max(0.0, gpu.memory_gb * 2**30 / 1e9 - use.used_gb):.0f} GB free"
        yield Check(
            name=f"GPU {gpu.index}",
            state="ok",
            detail=detail + (f", driver {gpu.driver}" if gpu.driver else ""),
        )
    for maker, count in found.undriven.items():
        yield Check(
            name=f"{maker} driver",
            state="missing",
            detail=f"{count} {maker} GPU{'s' * (count > 1)} on the PCI bus that no driver has claimed",
            advice=f"install and load {'the NVIDIA driver' if maker == 'NVIDIA' else AMD_DRIVER}",
        )


def _devices(found: Inspection) -> Iterator[Check]:
    machine = found.machine
    if machine.accelerator == "rocm" or any(gpu.driver.startswith(AMD_DRIVER) for gpu in machine.gpus):
        yield Check(
            name="AMD devices",
            state="ok" if found.kfd == "present" and found.dri else "missing",
            detail=f"/dev/kfd {found.kfd}, /dev/dri {_yes(found.dri)}",
            advice="join the group that owns /dev/kfd (render)"
            if found.kfd.startswith("present,")
            else "load the amdgpu driver with compute support (ROCm)",
        )
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
                advice="stop what is left over (`just clean` removes what this harness left)",
            )


def _leftovers(found: Inspection) -> Iterator[Check]:
    if found.leftovers:
        detail = f"of a harness that is gone: {', '.join(found.leftovers)}"
        yield Check(name="leftovers", state="warn", detail=detail, advice="`just clean` removes them")


def _docker(found: Inspection) -> Iterator[Check]:
    version = found.machine.docker
    yield Check(
        name="Docker Engine",
        state="ok" if version else "missing",
        detail=version or found.docker_problem or "does not answer",
        advice="" if found.docker_problem else "start dockerd, or use launcher=process",
    )
    for image in _images(found):
        digest = found.image_digests.get(image, "")
        if digest:
            yield Check(name="image", state="ok", detail=f"{image} {_short(digest)}")
        elif version:
            yield Check(name="image", state="info", detail=f"{image} is not here: `{how_to_get(image)}`")


def _images(found: Inspection) -> list[str]:
    """Images of variants, as far as this machine's accelerator could use them; those that are here first."""
    kinds = ("cpu", found.machine.accelerator)
    useful = {v.image for v in registry.variants().values() if v.image and v.accelerator in kinds}
    here = {v.image for v in registry.variants().values() if v.image in found.image_digests}
    return [*sorted(here), *sorted(useful - here)]


def _short(digest: str) -> str:
    head, sha, digits = digest.partition("sha256:")
    return f"{head}{sha}{digits[:_DIGEST_LEN]}"


def _disks(found: Inspection) -> Iterator[Check]:
    yield _space("disk, repository", found.machine.free_disk_gb, 10.0, "environments and results")
    largest = max(_wanted(found), key=lambda model: model.weights_gb, default=None)
    needed_gb = largest.weights_gb if largest else 0.0
    yield _space("disk, weights", found.weights_disk_gb, needed_gb, largest.alias if largest else "")
    if found.images_disk_gb is not None:
        absent = [image for image in _images(found) if image not in found.image_digests]
        kind = found.machine.accelerator
        needed_gb = 0.0 if not absent else _CPU_IMAGE_GB if kind == "cpu" else _GPU_IMAGE_GB
        yield _space("disk, images", found.images_disk_gb, needed_gb, f"each of {len(absent)} images")


def _wanted(found: Inspection) -> list[Model]:
    """Default models of this accelerator's variants whose weights would have to be downloaded."""
    kind = found.machine.accelerator
    aliases = {v.model for v in registry.variants().values() if v.model and v.accelerator == kind}
    known = models.models()
    return [
        known[a] for a in sorted(aliases & known.keys()) if known[a].hf_id and a not in found.weights_here
    ]


def _space(name: str, free_gb: float, needed_gb: float, for_what: str) -> Check:
    return Check(
        name=name,
        state="ok" if free_gb >= needed_gb else "warn",
        detail=f"{free_gb:g} GB free",
        advice=f"{needed_gb:g} GB are needed for {for_what}",
    )


def _limits(found: Inspection) -> Iterator[Check]:
    """What engines on accelerators need of the system; on a CPU any of it will do."""
    yield Check(name="memory", state="ok", detail=f"{found.memory_gb:g} GB available")
    for name, enough, detail, advice in (
        (
            "/dev/shm",
            found.shm_gb >= _SHM_GB,
            f"{found.shm_gb:g} GB free",
            f"GPU engines exchange tensors there: give it {_SHM_GB:g} GB or more",
        ),
        (
            "locked memory",
            isinf(found.memlock_mb),
            _limit(found.memlock_mb),
            "RDMA and MORI lock memory: ulimit -l unlimited (containers get it)",
        ),
        (
            "stack",
            found.stack_mb >= _STACK_MB,
            _limit(found.stack_mb),
            f"kernel compilers recurse: ulimit -s {_STACK_MB * 1024:.0f} (containers get it)",
        ),
        (
            "open files",
            found.open_files >= _OPEN_FILES,
            f"limit {found.open_files}",
            f"ulimit -n {_OPEN_FILES}",
        ),
    ):
        state: State = "ok" if enough or not found.machine.gpus else "warn"
        yield Check(name=name, state=state, detail=detail, advice=advice)


def _limit(value_mb: float) -> str:
    return "unlimited" if isinf(value_mb) else f"limit {value_mb:.3g} MB"


def _ports(found: Inspection) -> Iterator[Check]:
    free = [str(port) for port in PORTS if port not in found.busy_ports]
    if free:
        yield Check(name="ports", state="ok", detail=f"{', '.join(free)} free")
    for port, owner in found.busy_ports.items():
        yield Check(
            name=f"port {port}",
            state="warn",
            detail=f"in use by {owner or 'a process of another user'}",
            advice="`just bench` picks a free port; `just serve-*` takes port=",
        )


def _hub(found: Inspection) -> Iterator[Check]:
    hub, wanted = found.hub, {model.alias for model in _wanted(found)}
    yield Check(
        name="Hugging Face",
        state="warn" if (hub.state and wanted) or hub.token == "refused" else "info" if hub.state else "ok",
        detail=f"{hub.state or 'reachable'}, token {hub.token}",
        advice="log in with a valid HF_TOKEN"
        if hub.token == "refused"
        else f"bring the weights of {', '.join(sorted(wanted))}, or set HF_HOME to a cache that holds them",
    )
    for alias, why in hub.refused.items():
        yield Check(
            name="weights",
            state="warn" if alias in wanted else "info",
            detail=f"{alias} {why}",
            advice="accept the licence on its page and set HF_TOKEN, or bring its weights",
        )
    here = [
        f"{alias} ({revision[:7]})" if revision else alias for alias, revision in found.weights_here.items()
    ]
    yield Check(name="weights here", state="info", detail=", ".join(here) or "none")
    yield Check(name="ShareGPT", state="info", detail=f"{sharegpt.HOW_TO_GET}; then `sharegpt w.path=FILE`")


_MARKS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "missing": "[red]missing[/]", "info": "-"}


def run(console: Console) -> None:
    """Look at the machine and print both tables."""
    found = inspect()
    console.print(table("This machine", checks(found)))
    console.print(table("Variants", verdicts(found)))


def table(title: str, lines: tuple[Check, ...]) -> Table:
    """Checks as people read them."""
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        shown.add_column(overflow="fold")
    for line in lines:
        advice = f" ({line.advice})" if line.advice and line.state in ("warn", "missing") else ""
        shown.add_row(_MARKS[line.state], escape(line.name), escape(line.detail + advice))
    return shown
