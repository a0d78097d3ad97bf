"""Engines in containers, through the Docker Engine's own API."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

import psutil
import requests
from docker.errors import APIError, ContainerError, DockerException, NotFound
from msgspec.structs import replace

from harness import registry
from harness.containers import docker_engine
from harness.containers.docker_engine import connect, digest, find_image, how_to_get, refused, remove
from harness.containers.settings import (
    AITER,
    HOME,
    LABEL,
    RDMA,
    REPOSITORY,
    SEED,
    VISIBLE,
    Host,
    aiter_variable,
    caches,
    container_options,
    file_names,
    run_command,
    secret_names,
    seed_command,
    weights,
)
from harness.errors import LaunchError, MachineError
from harness.host import hub
from harness.registry import cache_folder
from harness.schema import Deployment, Launch, Machine, Variant
from harness.secrets import blotted, is_secret

OWNS_SERVER = True
ELSEWHERE = False
_SCRIPT_S = 180
"""Longest run of a script of ours in an image that was not read yet."""
_LOG_DEADLINE_S = 15.0
_GONE = {"Status": "gone", "Running": False, "ExitCode": 137, "OOMKilled": False, "Error": ""}


class DockerServer:
    """One container, from create to remove."""

    url = ""

    def __init__(self, client: Any, container: Any, log: threading.Thread, files: Path) -> None:
        self._client = client
        self._container = container
        self._log = log
        self._files = files
        self._last: dict[str, Any] = {}
        self._stopped_by_us = False

    @property
    def name(self) -> str:
        """The container's name."""
        return str(self._container.name)

    @property
    def pid(self) -> int:
        """Of the container's first process, as the Docker Engine's machine counts; 0 once it has ended."""
        return int(self._state().get("Pid") or 0)

    def poll(self) -> int | None:
        """Exit code, or None while it runs. Raises MachineError when the Docker Engine does not answer."""
        state = self._state()
        return None if state["Running"] else int(state["ExitCode"])

    def stop(self, grace_s: float) -> None:
        """SIGTERM, SIGKILL after grace_s, then remove the container and what was written for it."""
        if self._last:
            return
        with docker_engine.answering(f"stopping container {self.name}"):
            if self._state()["Running"]:
                self._stopped_by_us = True
                with contextlib.suppress(NotFound):
                    self._container.stop(timeout=max(1, round(grace_s)))
            state = self._state()
            if state["Running"]:
                raise MachineError(
                    f"Container {self.name} survived SIGKILL (stuck in the driver?); look at it with "
                    f"`docker top {self.name}` before the next run."
                )
            self._log.join(_LOG_DEADLINE_S)
            remove(self._container)
        self._last = state
        shutil.rmtree(self._files, ignore_errors=True)
        self._client.close()

    def describe_exit(self) -> str:
        """How it ended, in words. Waits for the rest of its log, so that the log holds the cause."""
        state = self._state()
        if not state["Running"]:
            self._log.join(_LOG_DEADLINE_S)
        return describe(state, self._stopped_by_us)

    def process_evidence(self) -> tuple[tuple[str, ...], dict[str, str]]:
        """Command line and environment of the engine's first process; secrets are left out."""
        first = self._read("/proc/1/task/1/children").split()
        pid = first[0] if first else "1"  # 1 is docker's init, its child the engine
        cmdline = self._read(f"/proc/{pid}/cmdline").rstrip("\0").split("\0")
        pairs = (item.partition("=") for item in self._read(f"/proc/{pid}/environ").split("\0") if item)
        return tuple(cmdline), {k: v for k, _, v in pairs if not is_secret(k)}

    def _read(self, path: str) -> str:
        try:
            code, output = self._container.exec_run(["cat", path])
        except (APIError, requests.RequestException):
            return ""
        return output.decode("utf-8", "replace") if code == 0 else ""

    def _state(self) -> dict[str, Any]:
        if self._last:
            return self._last
        with docker_engine.answering(f"looking at container {self.name}"):
            try:
                self._container.reload()
            except NotFound:
                return _GONE
            state: dict[str, Any] = self._container.attrs["State"]
            return state


def describe(state: dict[str, Any], stopped_by_us: bool = False) -> str:
    """Docker's State of a container, in words."""
    if state["Running"]:
        return "still running"
    if state["Status"] == "gone":
        return "the container was removed by somebody else"
    code = int(state["ExitCode"])
    words = f"exit code {code}"
    if state["OOMKilled"]:
        words += ", killed for lack of memory (the container's limit or the machine's)"
    elif stopped_by_us:
        words += ", stopped by this harness" + (" with SIGKILL after the grace time" if code == 137 else "")
    elif code == 127:
        words += ", the image does not hold the program that was to run"
    elif code > 128:
        words += f", killed by signal {code - 128}"
    elif code == 0:
        words += ", although nobody asked it to stop"
    return words + (f": {state['Error']}" if state["Error"] else "")


def missing(variant: Variant, machine: Machine) -> str:
    """A Docker Engine, the variant's image."""
    if not machine.docker:
        package = registry.package(variant.engine)
        elsewhere = variant.environment or package in machine.importable
        return "no Docker Engine answers" + (
            "" if elsewhere else f", and this machine's python3 cannot import {package}"
        )
    if not variant.image:
        return "it names no image"
    if variant.image not in machine.images:
        return f"image {variant.image} is not here; `{how_to_get(variant.image)}` gets it"
    return ""


def deployed(deployment: Deployment, variant: Variant) -> Deployment:
    """Weights at /models/<alias>, this repository at /harness, all addresses of its own network.

    The interpreter is whatever the image has on its PATH.
    """
    return replace(
        deployment,
        model_path=weights(deployment.model)[0],
        draft_path=weights(deployment.draft)[0] if deployment.draft else "",
        root=REPOSITORY,
        files="/",
        host="0.0.0.0",
    )


def fitted(launch: Launch, deployment: Deployment, variant: Variant) -> Launch:
    """Image, weights and privileges; this repository where the command or the environment speaks of it."""
    model = deployment.model
    beside = weights(deployment.draft)[1] if deployment.draft else {}
    mounts = {**weights(model)[1], **beside, **launch.mounts}
    if any(REPOSITORY in word for word in (*launch.argv, *launch.env.values())):
        mounts[str(registry.ROOT)] = REPOSITORY
    if not model.path and model.hf_id:
        # Weights that are fetched at the first start outlive the container.
        mounts[str(hub.cache())] = f"{HOME}/.cache/huggingface/hub:rw"
    return replace(launch, image=variant.image, mounts=mounts, privileged=variant.privileged)


def inside(launch: Launch, folder: Path, name: str, writable: bool = True) -> tuple[Launch, str]:
    """Mounted at /<name>, in place of whatever was."""
    path = f"/{name}"
    others = {host: target for host, target in launch.mounts.items() if target != f"{path}:rw"}
    target = f"{path}:rw" if writable else path
    return replace(launch, mounts={**others, str(folder.resolve()): target}), path


def environment(launch: Launch) -> dict[str, str]:
    """A container inherits nothing of this shell; secrets apart, which say nothing of how it runs."""
    return launch.env


def answering(launch: Launch) -> None:
    """The start is the check."""


def start(launch: Launch, log_path: Path, run_id: str) -> DockerServer:
    """Create and start the container; its output goes to log_path.

    Raises LaunchError when the image is missing or the Docker Engine refuses, MachineError when none answers.
    """
    client = connect()
    files = Path(tempfile.mkdtemp(prefix=f"{LABEL}-"))
    container = None
    try:
        image = find_image(client, launch.image)
        kept = cache_root(image.id)
        with log_path.open("ab") as log:
            log.write(_provenance(launch, image, kept).encode())
        options = container_options(launch, run_id, _host(image.id, kept, files))
        _write_files(launch, files)
        _make_caches(launch, kept)
        seed(client, launch, kept)
        values = {name: launch.env.get(name) or os.environ.get(name, "") for name in secret_names(launch)}
        options["environment"] |= {name: value for name, value in values.items() if value}
        container = client.containers.create(**options)
        container.start()
    except BaseException as error:
        if container is not None:
            remove(container)
        shutil.rmtree(files, ignore_errors=True)
        client.close()
        if isinstance(error, APIError):
            raise refused(launch, error) from error
        with docker_engine.answering(f"starting {launch.variant}"):
            raise
    hide = tuple(value.encode() for value in values.values() if value)
    return DockerServer(client, container, _follow(container.id, log_path, hide), files)


def by_hand(launch: Launch) -> str:
    """What start() does, as commands to type."""
    files = Path(tempfile.gettempdir()) / f"{LABEL}-by-hand"
    kept = cache_root("by-hand")
    written = [shlex.quote(host) for host, inside in launch.mounts.items() if inside.endswith(":rw")]
    lines = [" ".join([f"mkdir -p {files} {kept}/{{{','.join(caches(launch))}}}", *written])]
    for path, name in file_names(launch).items():
        lines.append(f"cat > {files}/{name} <<'END'\n{launch.files[path]}\nEND")
    host = _host("by-hand", kept, files)
    seeding = seed_command(launch, host)
    options = container_options(launch, "by-hand", host)
    return "\n".join([*lines, *([seeding] if seeding else []), run_command(launch, options)])


def python(launch: Launch, script: Path, *words: str) -> str:
    """Run by the image's python3, in a container of the same devices. Raises MachineError."""
    inside = f"/{script.name}"
    plain = replace(
        launch, argv=("python3", inside, *words), files={inside: script.read_text(encoding="utf-8")}
    )
    with tempfile.TemporaryDirectory(prefix=f"{LABEL}-") as folder, contextlib.closing(connect()) as client:
        _write_files(plain, Path(folder))
        options = container_options(plain, "script", replace(_host("", Path(), Path(folder)), cache_root=""))
        container = None
        try:
            find_image(client, launch.image)
            container = client.containers.create(**{**options, "ports": {}})
            container.start()
            container.wait(timeout=_SCRIPT_S)
            return str(container.logs(stdout=True, stderr=False).decode("utf-8", "replace"))
        except (LaunchError, DockerException, requests.RequestException) as error:
            raise MachineError(f"{launch.image} did not run it ({type(error).__name__})") from error
        finally:
            if container is not None:
                remove(container)


def cache_root(image_id: str) -> Path:
    """Folder of the kernel caches of one image; kernels that another image compiled may not be used."""
    return cache_folder() / "kernels" / image_id.removeprefix("sha256:")[:16]


def _host(image_id: str, kept: Path, files: Path) -> Host:
    return Host(
        image_id=image_id,
        cache_root=str(kept),
        files_root=str(files),
        visible={name: os.environ[name] for name in VISIBLE if os.environ.get(name)},
        device_gids=_device_gids(),
        rdma=Path(RDMA).is_dir(),
        pid=os.getpid(),
        pid_started=f"{psutil.Process().create_time():.2f}",
        pid_namespace=os.readlink("/proc/self/ns/pid"),
    )


def _device_gids() -> tuple[int, ...]:
    nodes = [Path("/dev/kfd"), *Path("/dev/dri").glob("renderD*")]
    return tuple(sorted({node.stat().st_gid for node in nodes if node.exists()} - {0}))


def _write_files(launch: Launch, files: Path) -> None:
    files.chmod(0o755)  # readable when the engine's user is not ours
    for path, name in file_names(launch).items():
        (files / name).write_text(launch.files[path], encoding="utf-8")


def _make_caches(launch: Launch, root: Path) -> None:
    for name in caches(launch):
        (root / name).mkdir(parents=True, exist_ok=True)


def seed(client: Any, launch: Launch, kept: Path) -> None:
    """Once for an image: its ready-built AITER modules into the cache that AITER then builds into."""
    host = Host(cache_root=str(kept))
    if not aiter_variable(launch, host) or any((kept / AITER).glob("*.so")):
        return
    options = container_options(replace(launch, files={}), "seed", host)
    words = {name: options[name] for name in ("environment", "mounts", "labels")}
    with contextlib.suppress(ContainerError, APIError):  # no Python: then no AITER either
        client.containers.run(launch.image, ["-c", SEED], entrypoint=["python3"], remove=True, **words)


def _provenance(launch: Launch, image: Any, root: Path) -> str:
    warm = [name for name in caches(launch) if (root / name).is_dir() and any((root / name).iterdir())]
    return f"[harness] image {digest(image)}, warm kernel caches: {', '.join(warm) or 'none'}\n"


def _follow(container_id: str, log_path: Path, hide: tuple[bytes, ...]) -> threading.Thread:
    """Append the container's output to log_path until it ends, secrets blotted out."""
    thread = threading.Thread(target=_copy_log, args=(container_id, log_path, hide), daemon=True)
    thread.start()
    return thread


def _copy_log(container_id: str, log_path: Path, hide: tuple[bytes, ...]) -> None:
    # A client of its own: connections are not shared between threads.
    quietly = contextlib.suppress(MachineError, APIError, requests.RequestException)
    with quietly, contextlib.closing(connect()) as client, log_path.open("ab", buffering=0) as log:
        for line in client.api.logs(container_id, stream=True, follow=True):
            log.write(blotted(line, hide))
