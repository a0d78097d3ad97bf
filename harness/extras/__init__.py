"""Optional features of a bench, a file each: loaded when a recipe asks for it; what runs knows none of them.

The file's name is what asks for it: an option (tasks=, moe_log=), a load's search (goodput), or a field of a
variant (traces). HOOKS are the functions that it may offer.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.schema import Load, Options, Scalar, Variant

HOOKS = {
    "check": "(recipe: Recipe) -> None",
    "prepare": "(recipe: Recipe, progress: Progress) -> None",
    "campaign": "(recipe: Recipe, run: Path, planned: tuple[Planned, ...]) -> Iterator[None]",
    "course": "(course: Course) -> Iterator[Visit]",
    "launching": "(planned: Planned, folder: Path) -> Planned",
    "around": "(visit: Visit, running: Running) -> Iterator[None]",
    "measure": "(visit: Visit, trial: Trial, running: Running) -> None",
    "after_trial": "(visit: Visit, trial: Trial, running: Running) -> None",
    "after_visit": "(visit: Visit, running: Running) -> None",
    "afterwards": "(visit: Visit) -> None",
    "remarks": "(run: Path, recipe: Recipe, rows: Sequence[Row]) -> tuple[str, ...]",
    "section": "(run: Path, order: Sequence[str]) -> Section",
}
"""In the order of a run. check: raises InputError before anything starts; prepare: while no engine runs;
campaign: a context manager that all launches run in; course: the visits of the run, in place of every
variant in every restart; launching: the launch as the feature needs it, a warning where it cannot have
that; around: a context manager that the trials of one engine life run in; measure: a trial with that
search; after_visit: the engine still runs; afterwards: it has stopped; remarks: of a comparison, from
what is stored; section: of report.html, variants in this order."""
_HERE = Path(__file__).parent


def named(name: str) -> ModuleType:
    """The extra <name>.py."""
    return importlib.import_module(f"harness.extras.{name}")


def asked(options: Options, loads: Iterable[Load] = (), variant: Variant | None = None) -> tuple[str, ...]:
    """The extras that these ask for."""
    usual = Options()
    words = {name for name in usual.__struct_fields__ if _set(getattr(options, name), usual, name)}
    words |= {load.search for load in loads}
    words |= {name for name in Variant.__struct_fields__ if getattr(variant, name, "")}
    return tuple(path.stem for path in sorted(_HERE.glob("*.py")) if path.stem in words)


def _set(value: Scalar, usual: Options, name: str) -> bool:
    """Whether an option asks for something; 0 may be an answer (moe_log=0), False is none."""
    return value is not False and value != getattr(usual, name)


def offered(
    hook: str, options: Options, loads: Iterable[Load] = (), variant: Variant | None = None
) -> tuple[Callable[..., Any], ...]:
    """What the extras that are asked for offer under the name of a hook."""
    modules = map(named, asked(options, loads, variant))
    return tuple(getattr(module, hook) for module in modules if hasattr(module, hook))
