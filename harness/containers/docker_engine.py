"""This machine's Docker Engine: reaching it, its images, and its refusals put into words."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import requests
from docker.client import from_env
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from harness.errors import LaunchError, MachineError
from harness.schema import Launch

T = TypeVar("T")
_PATIENCE_S = 10
"""For questions that a run can do without."""
DOCKERFILES = Path(__file__).resolve().parents[2] / "docker"

# Words of the Docker Engine -> why the container did not start, what to do next.
CAUSES = (
    (
        r"could not select device driver|nvidia-container-cli",
        "Docker cannot hand GPUs to containers",
        "install the NVIDIA Container Toolkit, run `nvidia-ctk runtime configure`, restart Docker",
    ),
    (
        r"gathering device information.*?\"(?P<what>[^\"]+)\"",
        "this machine has no {what}",
        "load the AMD GPU driver, or choose a variant for this machine (`just doctor`)",
    ),
    (
        r"bind source path does not exist: (?P<what>\S+)",
        "{what} does not exist on this machine",
        "check the model's path, and that Docker runs on this same machine",
    ),
    (
        r"port is already allocated|address already in use",
        "its port is in use",
        "stop what listens there or choose another with port=",
    ),
    (
        r"container name .* is already in use",
        "a container of that name exists",
        "remove leftovers with `just clean`",
    ),
    (
        r"setting rlimit",
        "this Docker Engine may not raise the limits that a GPU engine needs (it is rootless, or nested)",
        "use the machine's own Docker Engine, or launcher=process",
    ),
    (r"no space left on device", "the disk is full", "free space with `docker system prune`"),
)


def connect(timeout_s: int = 60) -> Any:
    """A client of this machine's Docker Engine. Raises MachineError when none answers."""
    where = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    try:
        # Asked first by ourselves: the SDK turns every cause into one message and leaves its socket open.
        if where.startswith("unix://"):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(where.removeprefix("unix://"))
        return from_env(timeout=timeout_s)
    except PermissionError as error:
        raise _unusable(where, "you may not use it", "add yourself to the group docker") from error
    except (DockerException, requests.RequestException, OSError) as error:
        advice = "start it (systemctl start docker, or scripts/docker_engine.sh)"
        raise _unusable(where, "no engine answers", advice) from error


def _unusable(where: str, why: str, advice: str) -> MachineError:
    return MachineError(f"Docker cannot be used at {where}: {why}; {advice}, or use launcher=process.")


@contextlib.contextmanager
def answering(doing: str) -> Iterator[None]:
    """Raises MachineError when the Docker Engine does not answer within the block."""
    try:
        yield
    except (DockerException, requests.RequestException) as error:
        raise MachineError(
            f"The Docker Engine did not answer while {doing} ({type(error).__name__}); check it with "
            "`docker info`, then run `just clean`."
        ) from error


def find_image(client: Any, name: str) -> Any:
    """The image on this machine. Raises LaunchError that says how to get it."""
    if not name:
        raise LaunchError("This variant names no image; use launcher=process, or add image= to its table.")
    try:
        return client.images.get(name)
    except ImageNotFound as error:
        raise LaunchError(
            f"Image {name} is not on this machine; get it with `{how_to_get(name)}`."
        ) from error


def how_to_get(image: str) -> str:
    """The command that brings an image here: built from docker/ when a Dockerfile bears its name."""
    name, _, tag = image.partition(":")
    if not (DOCKERFILES / f"{name}.Dockerfile").exists():
        return f"docker pull {image}"
    argument = tag_argument(name)
    return f"just image {name}" + (f" {argument}={tag}" if argument else "")


def tag_argument(name: str) -> str:
    """The build arg whose value is the image's tag: the Dockerfile's comment `# tag: ARG`, or ""."""
    text = (DOCKERFILES / f"{name}.Dockerfile").read_text(encoding="utf-8")
    found = re.search(r"^# tag: (\w+)$", text, re.MULTILINE)
    return found[1] if found else ""


def digest(image: Any) -> str:
    """What identifies an image: its registry digest, else (built here) its own id."""
    return str((image.attrs.get("RepoDigests") or [image.id])[0])


def image_digest(name: str) -> str:
    """Digest of an image of this machine; "" without Docker or image."""
    return _answer(lambda client: digest(client.images.get(name)), "")


def layers(name: str) -> tuple[str, ...]:
    """Digests of the layers of an image of this machine, lowest first; () without Docker or image."""
    return _answer(lambda client: tuple(client.images.get(name).attrs["RootFS"].get("Layers") or ()), ())


def version() -> str:
    """Version of the Docker Engine that answers; "" when none does."""
    return _answer(lambda client: str(client.version()["Version"]), "")


def image_names() -> tuple[str, ...]:
    """Images this machine holds, as name:tag, sorted; () without a Docker Engine."""
    return _answer(lambda client: tuple(sorted(t for image in client.images.list() for t in image.tags)), ())


def _answer(ask: Callable[[Any], T], otherwise: T) -> T:
    """What the Docker Engine answers; `otherwise` when none answers, or not to that."""
    try:
        with contextlib.closing(connect(_PATIENCE_S)) as client:
            return ask(client)
    except (MachineError, DockerException, requests.RequestException):
        return otherwise


def refused(launch: Launch, error: APIError) -> LaunchError:
    """The Docker Engine's refusal as one sentence."""
    words = str(error.explanation or error)
    for pattern, why, advice in CAUSES:
        if found := re.search(pattern, words, re.IGNORECASE | re.DOTALL):
            cause = why.format(**found.groupdict())
            return LaunchError(f"{launch.variant} was not started: {cause}; {advice}.", details=words)
    return LaunchError(
        f"{launch.variant} was not started: Docker refused its container; its words are below.", details=words
    )


def remove(container: Any) -> None:
    """Remove a container, running or not; one that is gone already is fine."""
    try:
        container.remove(force=True, v=True)
    except NotFound:
        pass
    except APIError as error:
        if error.status_code != 409:  # 409: a removal is under way already
            raise
