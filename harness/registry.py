"""What exists: engines/<name>.py + <name>.toml and workloads/<name>.py. The file name is the registry.

Engines that are not for this repository lie in folders of their own: HARNESS_ENGINES=/folder[:/folder].
Variants that were found, not written, lie in tuned/ and vendor/, or in HARNESS_VARIANTS=/folder[:/folder].
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
import tomllib
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import msgspec

from harness.errors import InputError
from harness.label import extension, point, release, scale, switches
from harness.label.switches import Switch
from harness.schema import Noun, Variant

ROOT = Path(__file__).resolve().parent.parent
N = TypeVar("N", bound=Noun)


def convert(data: object, kind: type[N], where: str) -> N:
    """`data` as a noun. Raises InputError naming the file, the table and the path to the field."""
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{where}: {error}; correct that field.") from error


def read_toml(path: Path) -> dict[str, object]:
    """A TOML file as a dict. Raises InputError with line and column, or when it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML: {error}; correct that line.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); name an existing TOML file.") from error


def relative(path: str) -> str:
    """The path from the repository's root, where every process is started; outside it, as it is."""
    try:
        return Path(path).relative_to(ROOT).as_posix() if path else ""
    except ValueError:
        return path


def cache_folder() -> Path:
    """Where this harness keeps what may be deleted: $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "serving-harness"


def engine_folders() -> tuple[Path, ...]:
    """engines/ of this repository, then those of $HARNESS_ENGINES."""
    return (ROOT / "engines", *(Path(p) for p in os.environ.get("HARNESS_ENGINES", "").split(":") if p))


@cache
def variants() -> dict[str, Variant]:
    """All variants of all engines, by name. Raises InputError on a malformed table or a name used twice."""
    found: dict[str, Variant] = {}
    files = [path for folder in engine_folders() for path in sorted(folder.glob("*.toml"))]
    for path in (p for p in files if p.with_suffix(".py").exists()):
        tables = read_toml(path)
        for name in tables:
            if name in found:
                raise InputError(
                    f"variant {name} is in {path.name} and in {found[name].engine}.toml; rename one."
                )
            fields = {"name": name, "engine": path.stem, **extension.whole(name, tables, path.name)}
            found[name] = convert(fields, Variant, f"{path.name} [{name}]")
    return found


def found_folders() -> tuple[Path, ...]:
    """Where variants lie that `tune` and `vendor` wrote: $HARNESS_VARIANTS, else tuned/ and vendor/."""
    named = tuple(Path(p) for p in os.environ.get("HARNESS_VARIANTS", "").split(":") if p)
    return named or (ROOT / "tuned", ROOT / "vendor")


def found_variants() -> dict[str, Variant]:
    """Those variants; none is part of `all`. Raises InputError on a malformed table or a name used twice."""
    found: dict[str, Variant] = {}
    for path in (p for folder in found_folders() for p in sorted(folder.glob("*.toml"))):
        for name, table in read_toml(path).items():
            if name in found or name in variants():
                raise InputError(f"variant {name} of {path.name} is there already; rename one.")
            fields = table if isinstance(table, dict) else {}
            found[name] = convert({"name": name, **fields}, Variant, f"{path.name} [{name}]")
    return found


@cache
def space(engine: str) -> point.Space:
    """What may be varied of an engine: <engine>.space.toml beside its variants; {} where there is none.

    Raises InputError for a malformed table.
    """
    paths = [folder / f"{engine}.space.toml" for folder in engine_folders()]
    return next((point.read(read_toml(path), path.name) for path in paths if path.exists()), {})


@cache
def switches_of(engine: str) -> dict[str, Switch]:
    """The switches of an engine by name, from engines/<name>.switches.toml. Raises InputError."""
    paths = (folder / f"{engine}.switches.toml" for folder in engine_folders())
    path = next((p for p in paths if p.exists()), None)
    tables = read_toml(path) if path else {}
    return {
        name: convert({"name": name, **table}, Switch, f"{path} [{name}]")
        for name, table in tables.items()
        if isinstance(table, dict)
    }


def variant(name: str) -> Variant:
    """One variant; NAME-x2 on two GPUs, -n2 on two nodes, NAME+prefix with a switch on, NAME~slots=8 a point.

    NAME@VERSION is NAME on another version of its engine. Raises InputError that lists what exists.
    """
    if point.is_point(name):
        return _at_point(name)
    if switches.SIGN in name:
        return _switched(name)
    if (parsed := release.parse(name)) and not scale.untwinned(name):
        return release.of(variant(parsed[0]), parsed[1])
    return known_variant(name) or lookup(name, {**variants(), **found_variants()}, "variant")


def _switched(name: str) -> Variant:
    """Raises InputError for a base or a switch that does not exist, or that does not go with another."""
    base, words = switches.split(scale.untwinned(name) or name)
    chosen = variant(base)
    found = switches.switched(chosen, words, switches_of(chosen.engine))
    return msgspec.structs.replace(found, name=name)


def _at_point(name: str) -> Variant:
    """Raises InputError for a base, a setting or a value that does not exist."""
    base, settings = point.parse(name)
    chosen = variant(base)
    return point.applied(chosen, space(chosen.engine), settings)


def known_variant(name: str) -> Variant | None:
    """The same, None where this checkout has no such variant: a stored run may be of another."""
    if name in variants():
        return variants()[name]
    if point.is_point(name) or switches.SIGN in name:
        try:
            return variant(name)
        except InputError:
            return None
    if name in (found := found_variants()):
        return found[name]
    if whole := scale.untwinned(name):
        twin = known_variant(whole)
        return msgspec.structs.replace(twin, name=name) if twin else None
    if wide := scale.nodes_of(name):
        narrow = known_variant(wide[0])
        return scale.spread(narrow, wide[1]) if narrow else None
    if versioned := release.parse(name):
        usual = known_variant(versioned[0])
        try:
            return release.of(usual, versioned[1]) if usual else None
        except InputError:
            return None
    parsed = scale.parse(name)
    if parsed and parsed[0] in variants():
        return scale.scaled(variants()[parsed[0]], parsed[1])
    return None


def lookup(name: str, table: dict[str, N], what: str) -> N:
    """table[name]. Raises InputError with the nearest name and the list of all."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise InputError(f"There is no {what} {name!r}.{hint} There are: {', '.join(sorted(table))}.")


def engine(name: str) -> ModuleType:
    """The module <name>.py of an engine folder: launch(), effective() and whatever else it offers."""
    return module("engines", name, engine_folders())


def module(package: str, name: str, folders: tuple[Path, ...]) -> ModuleType:
    """<name>.py of the package that is the first folder, else of another folder. Raises InputError."""
    if (folders[0] / f"{name}.py").exists():
        return importlib.import_module(f"{package}.{name}")
    return _outside(package, name, folders)


def fact(name: str, what: str, otherwise: Any) -> Any:
    """What an engine's file says under a name; `otherwise` where it says nothing of it, or is not here."""
    if not any((folder / f"{name}.py").exists() for folder in engine_folders()):
        return otherwise
    return getattr(engine(name), what, otherwise)


def package(name: str) -> str:
    """Name under which Python imports an engine: its file's PACKAGE, else the file's own name."""
    return str(fact(name, "PACKAGE", name))


def engines() -> tuple[str, ...]:
    """Every engine that has variants."""
    return tuple(dict.fromkeys(v.engine for v in variants().values()))


def keeps_prompts(name: str, *, cached: bool = False) -> bool:
    """Whether only a new start surely empties what an engine keeps of earlier prompts.

    True unless its file offers flush(), or says KEEPS_NOTHING and no switch made it keep (`cached`).
    """
    module = engine(name)
    return not hasattr(module, "flush") and (cached or not getattr(module, "KEEPS_NOTHING", False))


@cache
def _outside(package: str, name: str, folders: tuple[Path, ...]) -> ModuleType:
    """A file that lies outside this repository. Raises InputError when there is none."""
    path = next((f / f"{name}.py" for f in folders if (f / f"{name}.py").exists()), None)
    spec = importlib.util.spec_from_file_location(f"{package}.{name}", path) if path else None
    if spec is None or spec.loader is None:
        kind = package.rpartition(".")[2].removesuffix("s")
        raise InputError(f"There is no {kind} {name!r} in {', '.join(map(str, folders))}.")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def workloads() -> tuple[str, ...]:
    """Names of all workloads."""
    return tuple(sorted(p.stem for p in (ROOT / "workloads").glob("*.py") if p.stem != "__init__"))


def workload(name: str) -> ModuleType:
    """The module workloads/<name>.py; - and _ are one in a name. Raises InputError that lists what exists."""
    file = name.replace("-", "_")
    if file not in workloads():
        raise InputError(
            f"There is no workload {name!r}. There are: {', '.join(workloads())}; or ISL/OSL, like 1000/2000."
        )
    return importlib.import_module(f"workloads.{file}")
