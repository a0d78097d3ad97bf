"""`plan --check`: the rendered command parsed by the engine's own parser, before any GPU is taken."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Container, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from harness import registry
from harness.errors import LaunchError, MachineError
from harness.label.dialect import Parser, is_branch, version_key
from harness.registry import ROOT
from harness.schema import Launch, Noun, ParseResult, Variant

NO_PARSER = "no parser"
_TIMEOUT_S = 300.0
_TAIL_LINES = 10


class Parsed(Noun):
    """What a parser script answers: its package's version, and one error per argument list."""

    version: str
    errors: tuple[str, ...]


def every_rank(variant: Variant, launch: Launch) -> list[tuple[Variant, Launch]]:
    """The commands of one launch, one per node: they are named by their rank where there are several."""
    if not launch.others:
        return [(variant, launch)]
    names = [f"{variant.name} rank {number}" for number in range(len(launch.ranks))]
    return [(replace(variant, name=name), launch.of_rank(n)) for n, name in enumerate(names)]


def check_all(
    commands: Sequence[tuple[Variant, Launch]], images: Sequence[str] = ()
) -> tuple[ParseResult, ...]:
    """Parse commands, those that share a parser in one process; order is kept.

    `images` are those the Docker Engine holds. Raises MachineError when an engine's parser is neither in an
    image nor in an environment here.
    """
    installed = _installed()
    groups: dict[Place, list[int]] = {}
    for index, (variant, _) in enumerate(commands):
        groups.setdefault(place(variant, images, installed), []).append(index)
    results: dict[int, ParseResult] = {}
    for where, indices in groups.items():
        group = [commands[i] for i in indices]
        results |= zip(indices, _check_group(where, group), strict=True)
    return tuple(results[i] for i in range(len(commands)))


class Place(NamedTuple):
    """Where commands are parsed: in an image, else in an environment, another version's package on top."""

    engine: str
    image: str = ""
    environment: str = ""
    package: str = ""
    """Version whose package is put before the environment's own; "" = the environment's."""


def place(variant: Variant, images: Sequence[str], installed: Container[str]) -> Place:
    """Where a variant's command is parsed. `images`, `installed`: what the Docker Engine and .engines/ hold.

    Its own image, else its own environment, else the engine's light one with the version's package on top;
    where that one is not installed, another environment of the engine.
    """
    parser: Parser | None = registry.fact(variant.engine, "PARSER", None)
    if parser is None:
        return Place(variant.engine)
    if variant.image in images:
        return Place(variant.engine, image=variant.image)
    light = parser.environment
    if variant.environment != light and variant.environment in installed:
        return Place(variant.engine, environment=variant.environment)
    siblings = [v for v in registry.variants().values() if v.engine == variant.engine and v.environment]
    if light not in installed:
        others = sorted({v.environment for v in siblings if v.environment in installed})
        return Place(variant.engine, environment=(*others, light)[0])
    same = is_branch(variant.version) or variant.version in {
        v.version for v in siblings if v.environment == light
    }
    return Place(variant.engine, environment=light, package="" if same else variant.version)


def _installed() -> frozenset[str]:
    """Environments whose interpreter finds the package of an engine with a parser.

    One that was adopted may name a Python, or folders, that are not here.
    """
    known = registry.variants().values()
    wanted = {v.environment: v.engine for v in known if registry.fact(v.engine, "PARSER", None)}
    return frozenset(name for name, engine in wanted.items() if name and holds(_python(name), engine))


def _python(environment: str) -> Path:
    return ROOT / ".engines" / environment / "bin" / "python"


def holds(python: Path, engine: str) -> bool:
    """Whether this interpreter runs and finds the engine's package."""
    ask = "import importlib.util as u, sys; sys.exit(u.find_spec(sys.argv[1]) is None)"
    try:
        done = subprocess.run(
            (str(python), "-c", ask, registry.package(engine)), capture_output=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _check_group(place: Place, group: Sequence[tuple[Variant, Launch]]) -> list[ParseResult]:
    if check := registry.fact(place.engine, "check", None):
        return [check(variant, launch) for variant, launch in group]
    parser: Parser | None = registry.fact(place.engine, "PARSER", None)
    if parser is None:
        return [_unparsed(variant) for variant, _ in group]
    arguments = [_checkable(parser, variant, launch, bool(place.image)) for variant, launch in group]
    parsed = _in_image(place, arguments) if place.image else _in_environment(place, parser, arguments)
    where = f"image {place.image}" if place.image else f"environment {place.environment}"
    return [
        _result(variant, parsed.version, error, where)
        for (variant, _), error in zip(group, parsed.errors, strict=True)
    ]


def _checkable(parser: Parser, variant: Variant, launch: Launch, in_image: bool) -> tuple[str, ...]:
    """The engine's own arguments; without a fork's where only an upstream parser is at hand."""
    words = launch.argv[launch.argv.index(parser.program) + 1 :]
    if in_image or not is_branch(variant.version):
        return words
    own = parser.fork_flags
    return tuple(
        w for w, before in zip(words, ("", *words), strict=False) if w not in own and before not in own
    )


def _result(variant: Variant, version: str, error: str, where: str) -> ParseResult:
    exact = version_key(version.partition("+")[0]) == version_key(variant.version)
    note = "" if exact else f"pinned to {variant.version}, parsed by {version}"
    if is_branch(variant.version) and where.startswith("environment"):
        own = registry.fact(variant.engine, "PARSER", None).fork_flags
        note += f"; only the fork's image knows its {', '.join(own)}" if own else ""
    return ParseResult(
        variant=variant.name,
        ok=not error,
        parser=f"{variant.engine} {version} ({where})",
        exact=exact,
        error=f"{variant.engine} {version} refuses the command: {error}" if error else "",
        note=note,
    )


def _unparsed(variant: Variant) -> ParseResult:
    return ParseResult(
        variant=variant.name,
        ok=True,
        parser=NO_PARSER,
        exact=False,
        note="its start is the check",
    )


def _in_environment(place: Place, parser: Parser, arguments: Sequence[Sequence[str]]) -> Parsed:
    python = _python(place.environment)
    if not python.exists():
        raise MachineError(
            f"No parser of {place.engine} is on this machine: neither its image nor the environment "
            f"{place.environment}; `just bench {parser.environment}` makes the environment."
        )
    package = _package(place.engine, parser, place.package) if place.package else None
    return _ask((str(python), str(_script(place.engine))), arguments, package)


def _package(engine: str, parser: Parser, version: str) -> Path | None:
    """Folder with that version's package, fetched on first use; None when it cannot be fetched."""
    folder = ROOT / ".engines" / "parsers" / f"{engine}-{version}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as partial:
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile")
        command = (*pip, "--target", f"{partial}/site", f"{parser.package}=={version}")
        try:
            subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=True)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return None
        Path(partial, "site").rename(folder)
    return folder


def _in_image(place: Place, arguments: Sequence[Sequence[str]]) -> Parsed:
    script = _script(place.engine)
    command = (
        *("docker", "run", "--rm", "-i", "--network", "none", "--entrypoint", "python3"),
        *("-v", f"{script.parent}:/parsers:ro", place.image, f"/parsers/{script.name}"),
    )
    return _ask(command, arguments)


def _script(engine: str) -> Path:
    """parsers/<engine>_parser.py beside the engine's own file."""
    beside = Path(str(registry.engine(engine).__file__)).parent
    return beside / "parsers" / f"{engine}_parser.py"


def _ask(command: Sequence[str], arguments: Sequence[Sequence[str]], package: Path | None = None) -> Parsed:
    """Run a parser script, `package` before its environment's own. Raises MachineError without an answer."""
    question = json.dumps([list(words) for words in arguments])
    env = {**os.environ, "PYTHONPATH": str(package)} if package else None
    try:
        done = subprocess.run(
            command,
            input=question,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            env=env,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"The engine's parser could not be run ({error}); try it by hand.") from error
    answer = (done.stdout.strip().splitlines() or [""])[-1]
    try:
        return msgspec.json.decode(answer, type=Parsed)
    except msgspec.DecodeError as error:
        raise MachineError(
            f"The engine's parser ended with exit code {done.returncode} and no answer; run it by hand: "
            f"echo '[]' | {shlex.join(command)}",
            details="\n".join(done.stderr.splitlines()[-_TAIL_LINES:]),
        ) from error


def as_text(results: Sequence[ParseResult]) -> str:
    """One line per command: verdict, variant, parser, what could not be checked, what was refused."""
    lines = []
    for r in results:
        verdict = "REFUSED" if not r.ok else "parses" if r.parser != NO_PARSER else "-"
        detail = "; ".join(part for part in (r.error, r.note) if part)
        lines.append(f"{verdict:8} {r.variant}: {r.parser}{' - ' + detail if detail else ''}")
    return "\n".join(lines)


def refuse(results: Sequence[ParseResult]) -> None:
    """Raises LaunchError naming variant, flag and version when a command was refused."""
    refused = [r for r in results if not r.ok]
    if refused:
        named = "; ".join(f"{r.variant}: {r.error}" for r in refused)
        raise LaunchError(f"{named}. Correct the flag (args=, or engines/<engine>.toml) and plan again.")
