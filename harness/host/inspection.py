"""What `just doctor` looks at: one effect that reads the machine and starts nothing."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import requests

from harness import models
from harness.label import feasible
from harness.schema import Machine, Noun

PORTS = (8000, 30000)
"""Default ports of the engines."""


class GpuUse(Noun):
    """Memory in use on one accelerator, and by whom."""

    index: int
    used_gb: float
    processes: tuple[str, ...] = ()
    """ "pid name", for those this user may see."""


class Inspection(Noun):
    """This machine, as far as serving engines care."""

    machine: Machine
    kfd: bool = False
    dri: bool = False
    nvidia_toolkit: bool = False
    gpu_use: tuple[GpuUse, ...] = ()
    image_digests: dict[str, str] = msgspec.field(default_factory=dict)
    shm_gb: float = 0.0
    memory_gb: float = 0.0
    memlock: str = ""
    """Limit of locked memory: bytes, or "unlimited"."""
    open_files: int = 0
    weights_disk_gb: float = 0.0
    """Free where the Hugging Face cache lies."""
    images_disk_gb: float | None = None
    """Free where Docker keeps its images; None without a Docker Engine."""
    busy_ports: dict[int, str] = msgspec.field(default_factory=dict)
    """Port -> "pid name" of the listener, "" when it is not ours to see."""
    hub_token: bool = False
    hub_reachable: bool = False
    weights_here: tuple[str, ...] = ()
    """Aliases of models.toml whose weights are on this machine."""


def inspect() -> Inspection:
    """Read the machine. Takes a few seconds where a daemon or the network does not answer."""
    machine = feasible.probe()
    digests, images_root = _docker()
    return Inspection(
        machine=machine,
        kfd=Path("/dev/kfd").exists(),
        dri=Path("/dev/dri").exists(),
        nvidia_toolkit=bool(shutil.which("nvidia-ctk") or shutil.which("nvidia-container-cli")),
        gpu_use=tuple(_nvidia_use() if machine.accelerator == "cuda" else _amd_use()),
        image_digests=digests,
        shm_gb=_free_gb(Path("/dev/shm")),
        memory_gb=round(psutil.virtual_memory().available / 1e9, 1),
        memlock=_limit(resource.RLIMIT_MEMLOCK),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        weights_disk_gb=_free_gb(_hub_cache()),
        images_disk_gb=_free_gb(Path(images_root)) if images_root else None,
        busy_ports={port: owner for port in PORTS if (owner := _listener(port)) is not None},
        hub_token=bool(os.environ.get("HF_TOKEN")) or (_hub_home() / "token").exists(),
        hub_reachable=_reachable(os.environ.get("HF_ENDPOINT", "https://huggingface.co")),
        weights_here=tuple(alias for alias, model in models.models().items() if models.weights_folder(model)),
    )


def _docker() -> tuple[dict[str, str], str]:
    """Digest of each image, and Docker's root folder; ({}, "") when no Docker Engine answers."""
    from docker.client import from_env
    from docker.errors import DockerException

    try:
        with contextlib.closing(from_env(timeout=10)) as engine:
            images = engine.images.list()
            root = str(engine.info().get("DockerRootDir", ""))
    except (DockerException, OSError):
        return {}, ""
    return {
        tag: (image.attrs.get("RepoDigests") or [image.id])[0] for image in images for tag in image.tags
    }, root


def _nvidia_use() -> Iterator[GpuUse]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            pids = [process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)]
            used_gb = pynvml.nvmlDeviceGetMemoryInfo(handle).used / 1e9
            yield GpuUse(index=index, used_gb=round(used_gb, 1), processes=tuple(map(_process, pids)))
    finally:
        pynvml.nvmlShutdown()


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


def _hub_home() -> Path:
    return Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))


def _hub_cache() -> Path:
    return Path(os.environ.get("HF_HUB_CACHE", _hub_home() / "hub"))


def _limit(kind: int) -> str:
    soft = resource.getrlimit(kind)[0]
    return "unlimited" if soft == resource.RLIM_INFINITY else str(soft)


def _listener(port: int) -> str | None:
    """Who listens on a loopback port; None when nobody does, "" when it is not shown to this user."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            return None
        except OSError:
            pass
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            local = connection.laddr
            if connection.status == psutil.CONN_LISTEN and local and local.port == port and connection.pid:
                return _process(connection.pid)
    return ""


def _reachable(url: str) -> bool:
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return False
    try:
        return requests.head(url, timeout=5, allow_redirects=False).status_code < 500
    except requests.RequestException:
        return False
