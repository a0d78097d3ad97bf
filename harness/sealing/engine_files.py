"""Is it the engine that was published? Each visit's installed files are held against their packages."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from harness import launchers, registry, store
from harness.containers import docker_engine
from harness.errors import MachineError
from harness.escape import plain
from harness.planned import Planned
from harness.schema import Launch
from harness.sealing import installed
from harness.sealing.nouns import ENGINE_FILES, PATCHED, EngineFiles

_SHIMS = registry.ROOT / "engines" / "shims"


def held(planned: Planned, folder: Path) -> Planned:
    """The same, labelled "patched" where its engine is not what was published; engine_files.json says how.

    Raises StoreError when that cannot be written.
    """
    if not planned.own_server:
        return planned
    found = of(planned)
    store.write(folder / ENGINE_FILES, found)
    if not found.differences:
        return planned
    labels = (*planned.launch.labels, PATCHED)
    return msgspec.structs.replace(planned, launch=msgspec.structs.replace(planned.launch, labels=labels))


def of(planned: Planned) -> EngineFiles:
    """What is installed where the variant would be launched."""
    if not (planned.variant.environment or planned.variant.image):
        return EngineFiles(skipped="the variant names neither an environment nor an image")
    return look(planned.launch, whole=planned.options.seal)


def look(launch: Launch, whole: bool = False) -> EngineFiles:
    """What the engine's own Python shows of its packages, and the image it lies in."""
    package = registry.package(launch.engine)
    words = (package, *(["all"] if whole else []))
    image = docker_engine.image_digest(launch.image) if launch.image else ""
    found = EngineFiles(image=image, layers=docker_engine.layers(launch.image) if image else (), whole=whole)
    try:
        text = launchers.of(launch).python(launch, Path(installed.__file__), *words)
        said: dict[str, Any] = json.loads(text.strip().splitlines()[-1])
    except MachineError as error:
        return msgspec.structs.replace(found, skipped=error.message)
    except (ValueError, IndexError):
        return msgspec.structs.replace(found, skipped="the engine's Python did not say what is installed")
    if not said["packages"]:
        why = f"no installed package that has hashes of its files holds {package}"
        return msgspec.structs.replace(found, skipped=why, unheld=tuple(said["unheld"]))
    added = [(name, digest) for name, digest in said["added"] if digest not in _shims()]
    return msgspec.structs.replace(
        found,
        packages=said["packages"],
        num_files=said["num_files"],
        changed=tuple(map(plain, said["changed"])),
        missing=tuple(map(plain, said["missing"])),
        added=tuple(plain(name) for name, _ in added) + _covered(launch),
        shims=tuple(plain(name) for name, digest in said["added"] if digest in _shims()),
        unheld=tuple(map(plain, said["unheld"])),
    )


@cache
def _shims() -> frozenset[str]:
    """sha256 of every file that this repository itself puts into engines' environments."""
    files = (path for path in _SHIMS.rglob("*") if path.is_file())
    return frozenset(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)


def _covered(launch: Launch) -> tuple[str, ...]:
    """Folders of the host that are mounted over an image's packages."""
    return tuple(inside for inside in launch.mounts.values() if launch.image and "-packages" in inside)
