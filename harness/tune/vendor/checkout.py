"""A checkout of published recipes: which project's it is, at which commit, and what of it can be read."""

from __future__ import annotations

import importlib
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from harness.errors import InputError, MachineError
from harness.tune.vendor import sglang_cookbook, vllm_recipes
from harness.tune.vendor.published import Published, Wanted

READERS: dict[str, ModuleType] = {"vllm": vllm_recipes, "sglang": sglang_cookbook}
"""Engine -> the reader of its project's recipes."""


class Checkout(NamedTuple):
    """Its YAML files, parsed; those that are none have the parser's words."""

    folder: Path
    engine: str
    commit: str
    """"" = not under git; "+" behind it = with changes."""
    paths: dict[str, Any]
    broken: dict[str, str]

    @property
    def reader(self) -> ModuleType:
        """What understands its layout."""
        return READERS[self.engine]

    def read(self, wanted: Wanted) -> Published:
        """The recipe that is wanted. Raises InputError where the checkout has none, with what is near."""
        reader, paths = self.reader, self.paths
        of_model = [path for path in reader.files(paths) if reader.matches(paths[path], wanted.model)]
        if not of_model:
            raise InputError(
                f"{self.folder} has no recipe for {wanted.model}; `just vendor {self.folder}` lists all."
            )
        return published(self, of_model[-1], wanted)


def published(checkout: Checkout, path: str, wanted: Wanted) -> Published:
    """The recipe of one file. Raises InputError, also for shapes that no reader expected."""
    try:
        found: Published = checkout.reader.read(path, checkout.paths, wanted)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: another layout than this reader knows ({error!r}).") from error
    return found


def opened(folder: Path) -> Checkout:
    """Raises InputError for a folder of another layout, MachineError without a YAML parser."""
    try:
        yaml = importlib.import_module("yaml")
    except ImportError as error:
        raise MachineError(
            "vendor needs PyYAML, which is not in .venv: `sh scripts/setup.sh tune` installs it."
        ) from error
    paths: dict[str, Any] = {}
    broken: dict[str, str] = {}
    for path in sorted(folder.rglob("*.yaml")):
        name = path.relative_to(folder).as_posix()
        if name.startswith("."):
            continue
        try:
            paths[name] = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            broken[name] = " ".join(str(error).split())
    engine = next((name for name, reader in READERS.items() if reader.is_it(paths)), "")
    if not engine:
        raise InputError(
            f"{folder} is no checkout of vllm-project/recipes or sgl-project/sgl-cookbook; clone one of them."
        )
    return Checkout(folder, engine, _commit(folder), paths, broken)


def survey(checkout: Checkout) -> tuple[dict[str, Published], dict[str, str]]:
    """(recipes by file, why not by file), each with the project's own choice of hardware and strategy."""
    read: dict[str, Published] = {}
    unread = {p: why for p, why in checkout.broken.items() if p in checkout.reader.files({p: None})}
    for path in checkout.reader.files(checkout.paths):
        try:
            read[path] = published(checkout, path, Wanted())
        except InputError as error:
            unread[path] = error.message
    return read, unread


def _commit(folder: Path) -> str:
    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "HEAD")
    return head + ("+" if head and git("status", "--porcelain") else "")
