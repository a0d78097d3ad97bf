"""`just image NAME`: builds docker/NAME.Dockerfile with everything its context needs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import requests
from docker.errors import DockerException

from harness import registry
from harness.containers.docker_engine import DOCKERFILES, connect, tag_argument
from harness.containers.settings import LABEL
from harness.errors import InputError, MachineError
from harness.host import engine_env

OnLine = Callable[[str], None]

PYTHON = "3.11"
"""Python of the base images that wheels are gathered for; their glibc is 2.36."""
GLIBC_MINOR = 36
_ARG = re.compile(r"^ARG\s+(\w+)", re.MULTILINE)
_TAIL_LINES = 20


def run(name: str, settings: Iterable[str] = (), on_line: OnLine = print) -> str:
    """Build an image and return its name. `settings` are build args as KEY=VALUE; TAG=x names it NAME:x.

    Raises InputError for an unknown name or key, MachineError when Docker or the build fails.
    """
    dockerfile = find_dockerfile(name)
    args = parse_settings(dockerfile, settings)
    image = f"{name}:{args.pop('TAG', '') or default_tag(name, args)}"
    client = connect()
    with contextlib.closing(client), tempfile.TemporaryDirectory(prefix=f"{LABEL}-image-") as folder:
        make_context(name, Path(folder), on_line)
        on_line(f"building {image} from {dockerfile.name}")
        _build(client, Path(folder), image, args, on_line)
        size = client.images.get(image).attrs["Size"]
        client.images.prune(filters={"dangling": True, "label": [f"{LABEL}.stage=build"]})
    on_line(f"{image} is ready, {size / 1e9:.2f} GB")
    return image


def names() -> tuple[str, ...]:
    """Images this project can build."""
    return tuple(sorted(path.name.removesuffix(".Dockerfile") for path in DOCKERFILES.glob("*.Dockerfile")))


def find_dockerfile(name: str) -> Path:
    """docker/<name>.Dockerfile. Raises InputError that lists what exists."""
    if name not in names():
        raise InputError(f"There is no image {name!r} to build. There are: {', '.join(names())}.")
    return DOCKERFILES / f"{name}.Dockerfile"


def parse_settings(dockerfile: Path, settings: Iterable[str]) -> dict[str, str]:
    """KEY=VALUE words as build args. Raises InputError for a key the Dockerfile has no ARG for."""
    known = {"TAG", *_ARG.findall(dockerfile.read_text(encoding="utf-8"))}
    args = {}
    for word in settings:
        key, equals, value = word.partition("=")
        if not equals or key not in known:
            raise InputError(
                f"{dockerfile.name} has no setting {word!r}; write KEY=VALUE with a KEY of "
                f"{', '.join(sorted(known))}."
            )
        args[key] = value
    return args


def default_tag(name: str, args: Mapping[str, str]) -> str:
    """The revision built, where the Dockerfile's `# tag: ARG` names it; else the tag variants ask for."""
    if argument := tag_argument(name):
        text = find_dockerfile(name).read_text(encoding="utf-8")
        default = re.search(rf"^ARG {argument}=(.*)$", text, re.MULTILINE)
        revision = args.get(argument) or (default[1] if default else "")
        return re.sub(r"[^\w.-]", "-", revision)[:128].lstrip(".-") or "latest"
    images = (variant.image for variant in registry.variants().values())
    tags = {tag for repository, _, tag in (image.partition(":") for image in images) if repository == name}
    return tags.pop() if len(tags) == 1 else "latest"


def make_context(name: str, folder: Path, on_line: OnLine) -> None:
    """Fill the build context: the Dockerfile, and for an engine environment its wheels, freeze and shims."""
    shutil.copy(find_dockerfile(name), folder / "Dockerfile")
    requirements = registry.ROOT / "engines" / f"{name}.requirements.txt"
    if not requirements.exists():
        return
    shutil.copy(requirements, folder / "requirements.txt")
    (folder / "shims").mkdir()
    for shim in engine_env.shims(requirements, registry.ROOT):
        shutil.copytree(shim, folder / "shims", dirs_exist_ok=True)
    shutil.copytree(gather_wheels(requirements, on_line), folder / "wheels", copy_function=_link)


def gather_wheels(requirements: Path, on_line: OnLine) -> Path:
    """Download what a freeze pins, with this machine's pip and its settings, once per content of the freeze.

    Raises MachineError when pip cannot get one of them.
    """
    wheels = wheels_folder(requirements)
    if wheels.is_dir():
        return wheels
    on_line(f"downloading the wheels of {requirements.name}")
    partial = wheels.with_name(f"{wheels.name}.partial")
    command = pip_download(requirements, partial)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise MachineError(
            f"pip could not download the wheels of {requirements.name}; read its last words below, correct "
            "pip's settings (index, certificate) and run again.",
            details="\n".join(done.stdout.splitlines()[-_TAIL_LINES:]),
        )
    partial.rename(wheels)
    return wheels


def wheels_folder(requirements: Path) -> Path:
    """Where the wheels of this content of a freeze are kept."""
    return registry.cache_folder() / "wheels" / hashlib.sha256(requirements.read_bytes()).hexdigest()[:16]


def pip_download(requirements: Path, folder: Path) -> list[str]:
    """The pip command that fetches wheels for the images' Python and C library, not for this machine's."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC_MINOR, 4, -1)]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]
    target = ["--python-version", PYTHON, "--implementation", "cp"]
    target += [word for platform in platforms for word in ("--platform", platform)]
    pip = [sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check", "--quiet"]
    return [*pip, "--no-deps", "--only-binary=:all:", *target, "-d", str(folder), "-r", str(requirements)]


def _build(client: Any, context: Path, image: str, args: dict[str, str], on_line: OnLine) -> None:
    tail: list[str] = []
    try:
        for line in _build_output(client, context, image, args):
            on_line(line)
            tail = [*tail[-_TAIL_LINES:], line]
    except (DockerException, requests.RequestException) as error:
        raise MachineError(
            f"The Docker Engine gave up building {image} ({type(error).__name__}); check `docker info` and "
            "the disk, then run again.",
            details=str(error),
        ) from error
    if tail and tail[-1].startswith("ERROR"):
        raise MachineError(
            f"Image {image} could not be built; correct what its last output below names, then run again.",
            details="\n".join(tail),
        )


def _build_output(client: Any, context: Path, image: str, args: dict[str, str]) -> Iterator[str]:
    events = client.api.build(
        path=str(context),
        tag=image,
        buildargs=args,
        rm=True,
        forcerm=True,
        decode=True,
        use_config_proxy=True,
    )
    for event in events:
        if "error" in event:
            yield f"ERROR {event['error'].strip()}"
            return
        yield from event.get("stream", "").rstrip().splitlines()


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy(source, target)
