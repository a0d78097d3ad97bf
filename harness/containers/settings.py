"""A launch as the settings of one container: a pure function of the launch and of what this machine is."""

from __future__ import annotations

import re
import shlex
from pathlib import PurePosixPath
from typing import Any

import msgspec
from docker.types import DeviceRequest, LogConfig, Mount, Ulimit

from harness import registry
from harness.schema import Launch, Model, Noun
from harness.secrets import is_secret, redacted_argv

LABEL = "serving-harness"
"""Prefix of every label, container name and temporary folder, so that leftovers can be found."""
REPOSITORY = "/harness"
"""Where a container sees this repository."""
HOME = "/root"
"""Home folder in the engines' images: all of them run as root."""
AITER = "aiter"
CACHES = {"deep_gemm": ".cache/deep_gemm", "triton": ".triton", "mori": ".mori", AITER: ".aiter/jit"}
"""What libraries compiled, kept between starts: name -> folder under HOME. Valid for one image only.

What engines compile is the CACHES of their files.
"""
AITER_VARIABLE = "AITER_JIT_DIR"
"""Else AITER, run by root, builds into its own package, which goes with the container; with it, modules are
imported from that folder alone (ROCm/aiter at 02434470, aiter/jit/core.py: get_user_jit_dir, get_module)."""
SEED = f"""
import glob, importlib.util, os, shutil
found = importlib.util.find_spec("aiter")
for place in found.submodule_search_locations if found else ():
    for path in glob.glob(os.path.join(place, "jit", "*.so")):
        shutil.copy2(path, os.environ["{AITER_VARIABLE}"])
"""
"""Run by an image's Python: modules that it brings ready-built go where AITER then looks."""
RDMA = "/dev/infiniband"
SHM_SIZE = "8g"
STACK_BYTES = 67108864
VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


class Host(Noun):
    """What a container's settings take from this machine."""

    image_id: str = ""
    cache_root: str = ""
    """Folder that holds the kernel caches of this image; "" = none are mounted."""
    files_root: str = ""
    """Folder in which launch.files were written, numbered in their order."""
    visible: dict[str, str] = msgspec.field(default_factory=dict)
    """Variables of this shell that leave it only some of the accelerators (VISIBLE)."""
    device_gids: tuple[int, ...] = ()
    """Groups that own /dev/kfd and the render nodes here; names need not exist in the image, numbers do."""
    rdma: bool = False
    """Whether it has RDMA devices."""
    pid: int = 0
    pid_started: str = ""
    pid_namespace: str = ""


def weights(model: Model) -> tuple[str, dict[str, str]]:
    """Where a container sees the weights, and the mounts (host -> container) that put them there.

    A Hugging Face snapshot holds links into ../../blobs, so the folder of the whole model is mounted. Without
    weights on this machine it is the Hugging Face id, and the engine fetches them itself.
    """
    if not model.path:
        return model.hf_id, {}
    path, root = PurePosixPath(model.path), f"/models/{model.alias}"
    if path.parent.name == "snapshots" and (path.parent.parent.name).startswith("models--"):
        return f"{root}/snapshots/{path.name}", {str(path.parent.parent): root}
    return root, {str(path): root}


def container_options(launch: Launch, run_id: str, host: Host) -> dict[str, Any]:
    """Keyword arguments of docker's containers.create(). No secret is in them: see secret_names()."""
    return {
        "image": launch.image,
        "name": container_name(launch, run_id),
        # The image's own entry point is replaced, so that argv is exactly what runs, whatever the image.
        "entrypoint": list(launch.argv[:1]),
        "command": list(launch.argv[1:]),
        "environment": _environment(launch, host),
        "labels": labels(launch, run_id, host),
        "mounts": _mounts(launch, host),
        **_network(launch),
        # As PID 1 a Python program ignores SIGTERM, and nobody reaps the workers it orphans.
        "init": True,
        # A probe of the image's own would be traffic that the measured client did not send.
        "healthcheck": {"test": ["NONE"]},
        "log_config": LogConfig(type="json-file"),
        "detach": True,
        **_memory(launch),
        **_accelerator(launch, host),
    }


def secret_names(launch: Launch) -> tuple[str, ...]:
    """Variables handed on by name: their values are read at the start and written nowhere."""
    return tuple(sorted({*launch.secrets, *(k for k in launch.env if is_secret(k))}))


def container_name(launch: Launch, run_id: str) -> str:
    """Unique among the servers of this machine: a port has one owner at a time.

    Docker takes [a-zA-Z0-9][a-zA-Z0-9_.-]+ (moby, daemon/names); variants hold ~, = and @ too.
    """
    return f"{LABEL}-{run_id}-{re.sub(r'[^a-zA-Z0-9_.-]', '-', launch.variant)}-{launch.port}"


def labels(launch: Launch, run_id: str, host: Host) -> dict[str, str]:
    """Who started it: what `just clean` judges leftovers by."""
    return {
        LABEL: "1",
        f"{LABEL}.run": run_id,
        f"{LABEL}.variant": launch.variant,
        f"{LABEL}.pid": str(host.pid),
        f"{LABEL}.pid-started": host.pid_started,
        f"{LABEL}.pid-namespace": host.pid_namespace,
        f"{LABEL}.files": host.files_root,
    }


def caches(launch: Launch) -> dict[str, str]:
    """Name -> folder under HOME of everything compiled that is kept for this launch."""
    return {**registry.fact(launch.engine, "CACHES", {}), **CACHES}


def file_names(launch: Launch) -> dict[str, str]:
    """Path in the container -> name under host.files_root."""
    return {path: f"{i}-{PurePosixPath(path).name}" for i, path in enumerate(launch.files)}


def _mounts(launch: Launch, host: Host) -> list[Mount]:
    mounts = []
    for source, target in launch.mounts.items():
        writable = target.endswith(":rw")
        mounts.append(Mount(target.removesuffix(":rw"), source, type="bind", read_only=not writable))
    for path, name in file_names(launch).items():
        mounts.append(Mount(path, f"{host.files_root}/{name}", type="bind", read_only=True))
    for name, folder in caches(launch).items() if host.cache_root else ():
        mounts.append(Mount(f"{HOME}/{folder}", f"{host.cache_root}/{name}", type="bind"))
    return mounts


def _network(launch: Launch) -> dict[str, Any]:
    """The engine listens on all interfaces of its own network; outside it is on loopback only."""
    if launch.host_network:
        return {"network_mode": "host", "ports": {}}
    return {"ports": {f"{launch.port}/tcp": ("127.0.0.1", launch.port)}}


def _memory(launch: Launch) -> dict[str, Any]:
    if not launch.memory_gb:
        return {}
    limit = int(launch.memory_gb * 2**30)
    return {"mem_limit": limit, "memswap_limit": limit}


def _accelerator(launch: Launch, host: Host) -> dict[str, Any]:
    if launch.accelerator == "cpu":
        return {"shm_size": SHM_SIZE}
    options: dict[str, Any] = {
        "ipc_mode": "host",  # ranks share tensors through the host's /dev/shm
        "ulimits": [  # pinned host memory; deep stacks of the kernels' compilers
            Ulimit(name="memlock", soft=-1, hard=-1),
            Ulimit(name="stack", soft=STACK_BYTES, hard=STACK_BYTES),
        ],
    }
    if launch.privileged:
        options["privileged"] = True
    fabric = [f"{RDMA}:{RDMA}:rwm"] if launch.host_network and host.rdma else []
    if launch.accelerator == "cuda":
        devices = {"devices": fabric} if fabric else {}
        return {**options, **devices, "device_requests": [_nvidia_gpus(launch, host)]}
    return {
        **options,
        "devices": ["/dev/kfd:/dev/kfd:rwm", "/dev/dri:/dev/dri:rwm", *fabric],
        "group_add": ["video", *map(str, host.device_gids)],
        "cap_add": ["SYS_PTRACE"],
        "security_opt": ["seccomp=unconfined"],
    }


def _nvidia_gpus(launch: Launch, host: Host) -> DeviceRequest:
    """As many as the launch needs, of those that this shell may use."""
    allowed = [word for word in host.visible.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.strip()]
    if not allowed:
        return DeviceRequest(count=launch.num_gpus or -1, capabilities=[["gpu"]])
    return DeviceRequest(device_ids=allowed[: launch.num_gpus or None], capabilities=[["gpu"]])


def _environment(launch: Launch, host: Host) -> dict[str, str]:
    """A ROCm container sees every device, so what limits this shell limits it by the same variables."""
    limits = host.visible if launch.accelerator == "rocm" else {}
    return {
        **limits,
        **aiter_variable(launch, host),
        **{k: v for k, v in launch.env.items() if not is_secret(k)},
    }


def aiter_variable(launch: Launch, host: Host) -> dict[str, str]:
    """Where AITER keeps what it builds, where that outlives the container."""
    kept = launch.accelerator == "rocm" and host.cache_root
    return {AITER_VARIABLE: f"{HOME}/{CACHES[AITER]}"} if kept else {}


def seed_command(launch: Launch, host: Host) -> str:
    """The `docker run` line that does what SEED is for; "" where no AITER is expected."""
    if not (variable := aiter_variable(launch, host)):
        return ""
    folder = variable[AITER_VARIABLE]
    words = ["docker run --rm", f"-v {shlex.quote(f'{host.cache_root}/{AITER}:{folder}')}"]
    words += [f"-e {AITER_VARIABLE}={folder}", "--entrypoint python3", shlex.quote(launch.image)]
    return " ".join([*words, f"-c {shlex.quote(SEED)}"])


def run_command(launch: Launch, options: dict[str, Any]) -> str:
    """The `docker run` line that does what `options` do, secrets by name only."""
    words = ["docker run --rm", f"--name {options['name']}", "--init", "--no-healthcheck"]
    if "ipc_mode" in options:
        words.append(f"--ipc {options['ipc_mode']}")
    words += [f"--network {options['network_mode']}"] if "network_mode" in options else []
    words += [f"--shm-size {options['shm_size']}"] if "shm_size" in options else []
    words += [f"--ulimit {u['Name']}={u['Soft']}" for u in options.get("ulimits", ())]
    words += [f"--memory {v} --memory-swap {v}" for v in [options.get("mem_limit")] if v]
    words += ["--privileged"] if options.get("privileged") else []
    words += [f"--gpus {_gpus_word(r)}" for r in options.get("device_requests", ())]
    words += [f"--device {d.split(':')[0]}" for d in options.get("devices", ())]
    words += [f"--group-add {g}" for g in options.get("group_add", ())]
    words += [f"--cap-add {c}" for c in options.get("cap_add", ())]
    words += [f"--security-opt {o}" for o in options.get("security_opt", ())]
    words += [f"-p {ip}:{p}:{port.split('/')[0]}" for port, (ip, p) in options["ports"].items()]
    words += [_mount_word(m) for m in options["mounts"]]
    words += [f"-e {shlex.quote(f'{k}={v}')}" for k, v in options["environment"].items()]
    words += [f"-e {name}" for name in secret_names(launch)]
    words += [f"--entrypoint {shlex.join(options['entrypoint'])}", shlex.quote(options["image"])]
    return " \\\n  ".join([*words, shlex.join(redacted_argv(launch.argv)[1:])])


def _gpus_word(request: DeviceRequest) -> str:
    if ids := request["DeviceIDs"]:
        return f"'\"device={','.join(ids)}\"'"
    return "all" if request["Count"] < 0 else str(request["Count"])


def _mount_word(mount: Mount) -> str:
    suffix = ":ro" if mount["ReadOnly"] else ""
    return f"-v {shlex.quote(mount['Source'] + ':' + mount['Target'] + suffix)}"
