"""What stood behind each name in the table: a run's launch.json, attestation.json and environment.json."""

from __future__ import annotations

import hashlib
from pathlib import Path
from statistics import median
from typing import TypeVar

import msgspec

from harness import launchers, registry, store
from harness.errors import StoreError
from harness.schema import Attestation, Calibration, Effective, Environment, Launch, LoggedLabel, Noun, Ran

N = TypeVar("N", bound=Noun)
_Visit = tuple[Launch, Attestation | None]
_VERSION = "engine_version"

_LISTED = 2
"""Weight files named one by one; of more, one sha256 over `sha256  name` of all."""
_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth")


def ran(run: Path) -> tuple[Ran, ...]:
    """One per variant that was launched, in order of name. Files that cannot be read are left out."""
    environment = _read(run / "environment.json", Environment)
    return tuple(_variant(found, environment) for found in _visits(run))


def labels(run: Path) -> tuple[LoggedLabel, ...]:
    """The label of each variant that was launched, in order of name, as its launches showed it."""
    return tuple(_timed(_label(found), run) for found in _visits(run))


def _timed(label: LoggedLabel, run: Path) -> LoggedLabel:
    """With how fast the host was."""
    paths = sorted((run / label.variant).glob("r*/calibration.json"))
    taken = [found for path in paths if (found := _read(path, Calibration))]
    if not taken:
        return label
    cpu, memory = (median(getattr(one, name) for one in taken) for name in ("cpu_mb_s", "memory_gb_s"))
    return msgspec.structs.replace(label, cpu_mb_s=cpu, memory_gb_s=memory)


def _visits(run: Path) -> list[list[_Visit]]:
    visits: dict[str, list[_Visit]] = {}
    for path in sorted(run.glob("*/r*/launch.json")):
        if launch := _read(path, Launch):
            attestation = _read(path.parent / "attestation.json", Attestation)
            visits.setdefault(launch.variant, []).append((launch, attestation))
    return list(visits.values())


def _label(visits: list[_Visit]) -> LoggedLabel:
    first = visits[0][0]
    found = [attestation for _, attestation in visits if attestation]
    effective = found[0].effective if found else Effective()
    claims = {c.field: c.actual for c in found[0].claims if c.field != _VERSION} if found else {}
    shown = {
        field: value
        for field, value in msgspec.structs.asdict(effective).items()
        if value is not None and field not in (*claims, _VERSION, "proof")
    }
    return LoggedLabel(
        variant=first.variant,
        engine=first.engine,
        model=first.model or first.served_model_name,
        launcher=first.launcher,
        engine_version=_versions(visits),
        image=_image(first),
        proven=bool(found) and all(a.valid for a in found),
        claims=claims,
        shown=shown,
    )


def _read(path: Path, kind: type[N]) -> N | None:
    try:
        return store.read(path, kind) if path.exists() else None
    except StoreError:
        return None  # the comparison's notes name it


def _versions(visits: list[_Visit]) -> str:
    shown = [a.effective.engine_version for _, a in visits if a and a.effective.engine_version]
    return ", ".join(dict.fromkeys(shown))


def _variant(visits: list[_Visit], environment: Environment | None) -> Ran:
    first = visits[0][0]
    commands = {_command(_portless(launch)): _command(launch) for launch, _ in reversed(visits)}
    image = _image(first)
    return Ran(
        variant=first.variant,
        engine=first.engine,
        engine_version=_versions(visits),
        image=image,
        image_digest=environment.image_digests.get(image, "") if environment else "",
        weights=_weights(first, environment),
        commands=tuple(reversed(commands.values())),
        num_launches=len(visits),
    )


def _image(launch: Launch) -> str:
    """The image it runs from; "" outside containers."""
    return launch.image if launch.image and launch.image in _command(launch).split() else ""


def _portless(launch: Launch) -> Launch:
    """The same at no port: every launch gets another one."""
    argv = tuple("0" if word == str(launch.port) else word for word in launch.argv)
    return msgspec.structs.replace(launch, port=0, argv=argv)


def _command(launch: Launch) -> str:
    """What a person would type in the repository's root, without a folder of the machine it is read on."""
    mounts = {str(registry.ROOT / host): inside for host, inside in launch.mounts.items()}
    text = launchers.by_hand(msgspec.structs.replace(launch, mounts=mounts))
    caches = str(registry.cache_folder())
    return text.replace(caches, "$HOME/.cache/serving-harness").replace(str(registry.ROOT), "$PWD")


def _weights(launch: Launch, environment: Environment | None) -> str:
    """Name, revision and sha256 of what was loaded; "" when neither is known."""
    hashed = environment.weights if environment else {}
    files = {
        file: digest
        for path, digest in hashed.items()
        for alias, _, file in [path.partition("/")]
        if alias == launch.served_model_name and file.endswith(_WEIGHTS)
    }
    if len(files) > _LISTED:
        listing = "".join(f"{digest}  {file}\n" for file, digest in sorted(files.items()))
        files = {f"{len(files)} files": hashlib.sha256(listing.encode()).hexdigest()}
    facts = [f"revision {launch.revision}"] if launch.revision else []
    facts += [f"{file} sha256 {digest[:16]}" for file, digest in files.items()]
    return ", ".join((launch.served_model_name, *facts)) if facts else ""
