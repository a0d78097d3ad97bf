"""What `just doctor` looks at: one effect that reads the machine and starts nothing."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import socket
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any, Literal

import msgspec
import psutil

from harness import models
from harness.containers import docker_engine
from harness.errors import MachineError, ModelError
from harness.host import clean, ecc, gpus, hub
from harness.host.ecc import Ecc
from harness.host.hub import Access
from harness.host.machine import probe
from harness.host.node import Node, look
from harness.schema import Machine, Model, Noun

PORTS = (8000, 30000)
"""Default ports of the engines."""
_NVIDIA_TOOLKIT = ("nvidia-container-runtime-hook", "nvidia-container-cli", "nvidia-ctk")
"""Programs of the NVIDIA Container Toolkit; which of them exist depends on its version."""


_MAKERS = {"0x10de": "NVIDIA", "0x1002": "AMD"}
_GPU_CLASSES = ("0x0300", "0x0302", "0x0380", "0x1200")
"""PCI classes: VGA, 3D and other display controllers, processing accelerators."""


class GpuUse(Noun):
    """Memory in use on one accelerator, and by whom."""

    index: int
    used_gb: float
    processes: tuple[str, ...] = ()
    """ "pid name", for those this user may see."""


class Inspection(Noun):
    """This machine, as far as serving engines care."""

    machine: Machine
    undriven: dict[str, int] = msgspec.field(default_factory=dict)
    """Maker -> GPUs on the PCI bus that no driver has claimed."""
    kfd: Literal["absent", "present", "present, but closed to this user"] = "absent"
    dri: bool = False
    nvidia_toolkit: bool = False
    docker_problem: str = ""
    """Why no Docker Engine can be used; "" when one can."""
    gpu_use: tuple[GpuUse, ...] = ()
    image_digests: dict[str, str] = msgspec.field(default_factory=dict)
    shm_gb: float = 0.0
    memory_gb: float = 0.0
    memlock_mb: float = inf
    """Limit of locked memory, MB."""
    stack_mb: float = inf
    """Limit of a thread's stack, MB."""
    open_files: int = 0
    weights_disk_gb: float = 0.0
    """Free where the Hugging Face cache lies."""
    images_disk_gb: float | None = None
    """Free where Docker keeps its images; None without a Docker Engine."""
    busy_ports: dict[int, str] = msgspec.field(default_factory=dict)
    """Port -> "pid name" of the listener, "" when it is not ours to see."""
    node: Node = Node()
    ecc: tuple[Ecc, ...] = ()
    hub: Access = Access()
    leftovers: tuple[str, ...] = ()
    """Containers and processes whose harness is gone."""
    weights_here: dict[str, str] = msgspec.field(default_factory=dict)
    """Alias of models.toml whose weights are on this machine -> their revision, "" when not known."""


def inspect() -> Inspection:
    """Read the machine. Takes a few seconds where a daemon or the network does not answer."""
    machine = probe()
    digests, image_cuda, images_root, docker_problem = _docker()
    known = _known()
    return Inspection(
        machine=machine,
        undriven=undriven(),
        kfd=_kfd(),
        dri=Path("/dev/dri").exists(),
        nvidia_toolkit=any(map(shutil.which, _NVIDIA_TOOLKIT)),
        docker_problem=docker_problem,
        gpu_use=tuple(_nvidia_use() if machine.accelerator == "cuda" else _amd_use()),
        image_digests=digests,
        shm_gb=_free_gb(Path("/dev/shm")),
        memory_gb=round(psutil.virtual_memory().available / 1e9, 1),
        memlock_mb=_limit(resource.RLIMIT_MEMLOCK) / 1e6,
        stack_mb=_limit(resource.RLIMIT_STACK) / 1e6,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        weights_disk_gb=_free_gb(hub.cache()),
        images_disk_gb=_free_gb(Path(images_root)) if images_root else None,
        busy_ports={port: owner for port in PORTS if (owner := _listener(port)) is not None},
        node=look(machine.accelerator, image_cuda),
        ecc=ecc.look(machine.accelerator),
        hub=hub.look(model for model in known if not model.path),
        leftovers=clean.leftovers(),
        weights_here={model.alias: model.loaded_revision for model in known if model.path},
    )


def _known() -> list[Model]:
    """Every alias, with what is on this machine; an unreadable checkpoint counts as not here."""
    found = []
    for alias, model in models.models().items():
        try:
            found.append(models.resolve(alias))
        except ModelError:
            found.append(msgspec.structs.replace(model, path=""))
    return found


def undriven(bus: Path = Path("/sys/bus/pci/devices")) -> dict[str, int]:
    """Maker -> accelerators and display adapters on the PCI bus that no driver has claimed."""
    found: dict[str, int] = {}
    for device in bus.glob("*"):
        maker = _MAKERS.get(_text(device / "vendor"))
        if maker and _text(device / "class").startswith(_GPU_CLASSES) and not (device / "driver").exists():
            found[maker] = found.get(maker, 0) + 1
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _kfd() -> Literal["absent", "present", "present, but closed to this user"]:
    device = Path("/dev/kfd")
    if not device.exists():
        return "absent"
    return "present" if os.access(device, os.R_OK | os.W_OK) else "present, but closed to this user"


def _docker() -> tuple[dict[str, str], dict[str, str], str, str]:
    """Digest and CUDA version of each image, Docker's root folder, or why no Docker Engine can be used."""
    try:
        with contextlib.closing(docker_engine.connect()) as engine, docker_engine.answering("listing images"):
            images = engine.images.list()
            root = str(engine.info().get("DockerRootDir", ""))
    except MachineError as error:
        return {}, {}, "", error.message
    tagged = {tag: image for image in images for tag in image.tags}
    digests = {tag: docker_engine.digest(image) for tag, image in tagged.items()}
    return digests, {tag: _cuda_of(image) for tag, image in tagged.items()}, root, ""


def _cuda_of(image: Any) -> str:
    """CUDA_VERSION of an image's environment, which NVIDIA's bases set; "" without."""
    variables = (image.attrs.get("Config") or {}).get("Env") or []
    return next((v.partition("=")[2] for v in variables if v.startswith("CUDA_VERSION=")), "")


def _nvidia_use() -> Iterator[GpuUse]:
    with gpus.nvml() as nvml:
        for index in range(nvml.nvmlDeviceGetCount() if nvml else 0):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            pids = [process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)]
            used_gb = nvml.nvmlDeviceGetMemoryInfo(handle).used / 1e9
            yield GpuUse(index=index, used_gb=round(used_gb, 1), processes=tuple(map(_process, pids)))


def _amd_use() -> Iterator[GpuUse]:
    """amdgpu's sysfs: bytes in use per card; /sys/class/kfd/kfd/proc holds a folder per compute process."""
    processes = tuple(_process(int(p.name)) for p in Path("/sys/class/kfd/kfd/proc").glob("[0-9]*"))
    cards = sorted(Path("/sys/class/drm").glob("card[0-9]*/device/mem_info_vram_used"))
    for index, card in enumerate(cards):
        yield GpuUse(index=index, used_gb=round(int(card.read_text()) / 1e9, 1), processes=processes)


def _process(pid: int) -> str:
    try:
        return f"{pid} {psutil.Process(pid).name()}"
    except psutil.Error:
        return f"{pid} (of another user or container)"


def _free_gb(folder: Path) -> float:
    """Free space of the file system that holds `folder`, or would hold it."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return round(shutil.disk_usage(folder).free / 1e9, 1)


def _limit(kind: int) -> float:
    soft = resource.getrlimit(kind)[0]
    return inf if soft == resource.RLIM_INFINITY else float(soft)


def _listener(port: int) -> str | None:
    """Who listens on a loopback port; None when nobody does, "" when it is not shown to this user."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            return None
        except OSError:
            pass
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            local = connection.laddr
            if connection.status == psutil.CONN_LISTEN and local and local.port == port and connection.pid:
                return _process(connection.pid)
    return ""
