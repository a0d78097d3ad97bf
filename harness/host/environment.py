"""environment.json: what the numbers were measured on. Probing is the only effect here."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from harness.containers import docker_engine
from harness.host import gpus
from harness.models import weight_files
from harness.registry import ROOT, cache_folder
from harness.schema import Accelerator, Environment, Gpu, Model

_HASH_CHUNK = 16 << 20
AMD_DRIVER = "amdgpu"


def hostname_hash() -> str:
    """What stands for this host's name in results that are published."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:12]


def probe(models: Iterable[Model] = (), images: Iterable[str] = ()) -> Environment:
    """This machine, now. Hashes weights (cached by path, size, mtime); asks Docker for digests."""
    found = find_gpus()
    weights: dict[str, str] = {}
    for model in models:
        weights |= {f"{model.alias}/{name}": digest for name, digest in hash_weights(model).items()}
    return Environment(
        started_at=now(),
        harness_commit=git("rev-parse", "HEAD") or os.environ.get("HARNESS_COMMIT", ""),
        harness_dirty=bool(git("status", "--porcelain", "--untracked-files=no")),
        hostname_hash=hostname_hash(),
        os=_os_name(),
        kernel=platform.release(),
        python=platform.python_version(),
        cpu_model=cpu_model(),
        num_cpus=len(os.sched_getaffinity(0)),
        memory_gb=round(psutil.virtual_memory().total / 2**30, 1),
        packages={d.name: d.version for d in importlib.metadata.distributions()},
        gpus=found,
        accelerator=accelerator(found),
        docker=docker_engine.version(),
        weights=weights,
        image_digests={name: docker_engine.image_digest(name) for name in sorted(set(images))},
    )


def now() -> str:
    """Wall clock, ISO 8601 UTC, seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def git(*words: str) -> str:
    """Output of a git command in this repository; "" when there is no git or no repository."""
    try:
        done = subprocess.run(
            ("git", *words), cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def accelerator(gpus: tuple[Gpu, ...]) -> Accelerator:
    """The kind of accelerator this machine has; an AMD GPU without /dev/kfd computes nothing."""
    if Path("/dev/kfd").exists():
        return "rocm"
    return "cuda" if any(not gpu.driver.startswith(AMD_DRIVER) for gpu in gpus) else "cpu"


def find_gpus() -> tuple[Gpu, ...]:
    """NVIDIA GPUs through NVML, AMD ones through rocm's sysfs topology; () without either driver.

    Only those that CUDA_VISIBLE_DEVICES (HIP_..., ROCR_...) leaves to this process.
    """
    return _nvidia_gpus() or _amd_gpus()


def _nvidia_gpus() -> tuple[Gpu, ...]:
    with gpus.nvml() as nvml:
        if nvml is None:
            return ()
        driver = str(nvml.nvmlSystemGetDriverVersion())
        found = []
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        for index in gpus.visible(str(nvml.nvmlDeviceGetUUID(handle)) for handle in handles):
            handle = handles[index]
            memory = nvml.nvmlDeviceGetMemoryInfo(handle).total / 2**30
            name = str(nvml.nvmlDeviceGetName(handle))
            found.append(Gpu(index=index, name=name, memory_gb=round(memory, 1), driver=driver))
        return tuple(found)


def _amd_gpus() -> tuple[Gpu, ...]:
    found: list[Gpu] = []
    cards = sorted(Path("/sys/class/drm").glob("card[0-9]*/device/mem_info_vram_total"))
    for index in gpus.visible([""] * len(cards)):
        card = cards[index]
        name = card.parent / "product_name"
        label = name.read_text(encoding="utf-8").strip() if name.exists() else "AMD GPU"
        memory = int(card.read_text(encoding="utf-8")) / 2**30
        found.append(Gpu(index=index, name=label, memory_gb=round(memory, 1), driver=amd_driver()))
    return tuple(found)


def amd_driver(module: Path = Path("/sys/module/amdgpu")) -> str:
    """amdgpu's version, or the kernel it came with; "" without the module."""
    version = module / "version"
    if version.is_file():
        return f"{AMD_DRIVER} {version.read_text(encoding='utf-8').strip()}"
    return f"{AMD_DRIVER} of Linux {platform.release()}" if module.is_dir() else ""


def cpu_model() -> str:
    """Model name of the first CPU."""
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _os_name() -> str:
    for line in _lines("/etc/os-release"):
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return platform.system()


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def hash_weights(model: Model) -> dict[str, str]:
    """File name -> sha256 of weight_paths(); {} when they are not here."""
    if not model.path:
        return {}
    files = weight_paths(model)
    cache_path = cache_folder() / "weights.json"
    cache = _read_cache(cache_path)
    digests, known = {}, dict(cache)
    for path in files:
        state = path.stat()
        key = f"{path.resolve()}:{state.st_size}:{state.st_mtime_ns}"
        known[key] = known.get(key) or sha256_file(path)
        digests[path.name] = known[key]
    if known != cache:
        _write_cache(cache_path, known)
    return digests


def weight_paths(model: Model) -> list[Path]:
    """The weights of a model that lies here, their index, config and tokenizer."""
    folder = Path(model.path)
    small = [folder / n for n in ("config.json", "tokenizer.json", "model.safetensors.index.json")]
    return [p for p in small if p.exists()] + list(weight_files(folder))


def _read_cache(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _write_cache(path: Path, digests: dict[str, str]) -> None:
    """Whole or not at all: where it cannot be written, the next run hashes again."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(digests, indent=0), encoding="utf-8")
        partial.replace(path)


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_HASH_CHUNK):
            digest.update(piece)
    return digest.hexdigest()
