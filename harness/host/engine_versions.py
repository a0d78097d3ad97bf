"""Environments of other versions: `.engines/<env>@<version>/`, resolved from the requirements of today's.

A requirements file is a freeze of one version. For another, uv resolves that version with today's pins as its
preference: each is kept wherever the version allows it. What today's file leaves out, adds or replaces
against its engine's own demands is left out, added and replaced there too. The outcome is written as a
requirements file beside the environment, with what was assumed; bench keeps a copy in the run.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from harness import registry
from harness.errors import InputError, MachineError
from harness.host import engine_env, package_index
from harness.host.engine_env import OnLine
from harness.label import release

Pins = Mapping[str, str]
"""Package, its name normalised -> version."""
_PIN = re.compile(r"([A-Za-z0-9][\w.-]*)==(\S+)")
_TIMEOUT_S = 300.0
_TAIL_LINES = 12
_NAMED = 24
"""Versions that a refusal names, the newest."""


class Engine(NamedTuple):
    """The package that makes an environment an engine's, and the version that is pinned today."""

    package: str
    version: str


class Deviation(NamedTuple):
    """How a freeze differs from what its engine's own demands resolve to."""

    left_out: frozenset[str]
    added: Pins
    held: Pins
    """Builds of another index (+cpu ...) in place of what the engine asks for."""


def ensure(env_name: str, root: Path, on_line: OnLine) -> Path:
    """engine_env.ensure() for any environment, one of another version described first.

    Raises InputError for a version that does not exist, MachineError for what cannot be resolved or made.
    """
    if release.AT in env_name and not engine_env.requirements(env_name, root).exists():
        describe(env_name, root, on_line)
    return engine_env.ensure(env_name, root, on_line)


def refuse_unknown(env_name: str, root: Path) -> None:
    """Raises InputError for a version that is neither installed nor in the package index."""
    if release.AT not in env_name or engine_env.requirements(env_name, root).exists():
        return
    base, _, version = env_name.partition(release.AT)
    package = engine(base, root).package
    known = package_index.versions(package, candidates=True)
    if version not in known:
        raise InputError(
            f"There is no version {version} of {package} that this Python can install; there are "
            f"{', '.join(known[-_NAMED:])}{' and older ones' * (len(known) > _NAMED)}."
        )


def engine(base: str, root: Path) -> Engine:
    """What is pinned in an environment at the version of the variants that use it. Raises InputError."""
    frozen = pins(engine_env.requirements(base, root).read_text(encoding="utf-8"))
    used = {v.version for v in registry.variants().values() if v.environment == base}
    found = [Engine(package, version) for package, version in frozen.items() if version in used]
    if len(found) != 1:
        raise InputError(
            f"{base}.requirements.txt pins {len(found) or 'no'} packages at its variants' version, so it "
            "does not say which is the engine; use image= or python= for another version."
        )
    return found[0]


def describe(env_name: str, root: Path, on_line: OnLine) -> Path:
    """Write the environment's requirements file and its shims; the path of the file.

    Raises InputError for a version that does not exist, MachineError for one that cannot be resolved.
    """
    refuse_unknown(env_name, root)
    base, _, version = env_name.partition(release.AT)
    lock, today = engine_env.requirements(base, root), engine(base, root)
    frozen = pins(lock.read_text(encoding="utf-8"))
    on_line(f"resolving {today.package} {version}")
    engine_env.ensure(engine_env.UV, registry.ROOT, on_line)
    own = resolve(Engine(today.package, today.version), frozen, Deviation(frozenset(), {}, {}), root)
    usual = deviation(frozen, own)
    wanted = Engine(today.package, version)
    try:
        found, usual = resolve(wanted, frozen, usual, root), usual
    except MachineError:
        usual = usual._replace(held=_local_builds(frozen))
        found = resolve(wanted, frozen, usual, root)
    shims = [_shim(shim, env_name, root, today.version) for shim in engine_env.shims(lock, root)]
    target = engine_env.requirements(env_name, root)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(written(wanted, frozen, found, usual, shims), encoding="utf-8")
    return target


def pins(text: str) -> dict[str, str]:
    """The pins of a requirements file, names normalised. Pure."""
    lines = (line.strip() for line in text.splitlines())
    found = (_PIN.match(line) for line in lines)
    return {normal(match[1]): match[2] for match in found if match}


def normal(name: str) -> str:
    """A package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def deviation(frozen: Pins, own: Pins) -> Deviation:
    """`own`: what the engine's demands resolve to, with the freeze as preference. Pure."""
    return Deviation(
        left_out=frozenset(own) - frozenset(frozen),
        added={name: frozen[name] for name in frozen if name not in own},
        held={n: v for n, v in _local_builds(frozen).items() if n in own and own[n] != v},
    )


def _local_builds(frozen: Pins) -> dict[str, str]:
    return {name: version for name, version in frozen.items() if "+" in version}


def written(wanted: Engine, frozen: Pins, found: Pins, usual: Deviation, shims: Iterable[str]) -> str:
    """The requirements file: pins, and in its comments what was assumed. Pure."""
    everything = {**usual.added, **{n: v for n, v in found.items() if n not in usual.left_out}}
    other = [
        f"{name}=={version}" + (f" (today {frozen[name]})" if name in frozen else "")
        for name, version in sorted(everything.items())
        if frozen.get(name) != version and name != wanted.package
    ]
    told = {
        "other than today's": other,
        "left out, as today's leaves them out": sorted(usual.left_out),
        "added, as today's adds them": [f"{n}=={v}" for n, v in sorted(usual.added.items())],
        "held, whatever this version asks for": [f"{n}=={v}" for n, v in sorted(usual.held.items())],
    }
    return "\n".join(
        [
            f"# {wanted.package} {wanted.version}, resolved with the pins of today's version as preference.",
            *(f"# {what}: {', '.join(names)}" for what, names in told.items() if names),
            *(f"# shim: {shim}" for shim in shims),
            *(f"{name}=={version}" for name, version in sorted(everything.items())),
            "",
        ]
    )


def resolve(wanted: Engine, frozen: Pins, usual: Deviation, root: Path) -> dict[str, str]:
    """What a version needs, with the freeze as preference. Raises MachineError with the resolver's reason."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {
            "in.txt": [f"{wanted.package}=={wanted.version}"],
            "out.txt": [f"{n}=={v}" for n, v in frozen.items() if n != wanted.package],
            "excludes.txt": sorted(usual.left_out),
            "overrides.txt": [f"{n}=={v}" for n, v in usual.held.items()],
        }
        for file, lines in files.items():
            (folder / file).write_text("\n".join(lines), encoding="utf-8")
        done = subprocess.run(
            [
                *(str(engine_env.uv()), "pip", "compile", str(folder / "in.txt")),
                *("-o", str(folder / "out.txt"), "--python", sys.executable, "--only-binary=:all:"),
                *("--excludes", str(folder / "excludes.txt"), "--overrides", str(folder / "overrides.txt")),
                *("--no-annotate", "--no-header", "--quiet", "--no-config"),
                *("--cache-dir", str(engine_env.downloads(root)), *package_index.uv_flags()),
            ],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise MachineError(
                f"The packages of {wanted.package} {wanted.version} cannot be resolved; read why below, and "
                "choose another version or another package index.",
                details="\n".join(done.stderr.splitlines()[:_TAIL_LINES]),
            )
        return pins((folder / "out.txt").read_text(encoding="utf-8"))


def _shim(shim: Path, env_name: str, root: Path, today: str) -> str:
    """A copy of the shim for this environment, today's version in its names exchanged; from the root."""
    version = env_name.partition(release.AT)[2]
    target = engine_env.folder(root) / f"{env_name}.shims" / shim.name
    shutil.rmtree(target, ignore_errors=True)
    for file in sorted(path for path in shim.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        place = str(file.relative_to(shim))
        copy = target / place.replace(today, version)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
        if today in place:
            copy.write_text(file.read_text(encoding="utf-8").replace(today, version), encoding="utf-8")
    return target.relative_to(root.absolute()).as_posix()
