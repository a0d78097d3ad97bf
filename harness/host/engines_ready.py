"""Makes the process environment of a planned variant, on first use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from harness import registry, store
from harness.errors import HarnessError
from harness.host import engine_env, engine_versions
from harness.label import release
from harness.planned import Planned


def used(planned: Planned) -> str:
    """The environment of .engines/ that a variant is launched from; "" = another interpreter, or none."""
    name = planned.variant.environment
    return name if name and planned.deployment.python == f".engines/{name}/bin/python" else ""


def ensure(planned: Planned, on_line: Callable[[str], None]) -> None:
    """Create .engines/<environment> when this variant is launched from it and it is not there.

    Raises MachineError with the package manager's last lines.
    """
    if name := used(planned):
        engine_versions.ensure(name, registry.ROOT, lambda line: on_line(f"installing {name}: {line}"))


def refuse_unknown(planned: Iterable[Planned]) -> None:
    """Raises InputError for a version of an engine that does not exist, MachineError where nobody can say."""
    for name in sorted({used(p) for p in planned if not p.skip}):
        engine_versions.refuse_unknown(name, registry.ROOT)


def keep(planned: Planned, run: Path) -> None:
    """environments/<name>.txt of a run: what another version was resolved to. Today's are in the commit."""
    name = used(planned)
    described = engine_env.requirements(name, registry.ROOT)
    if release.AT in name and described.exists():
        store.write_text(run / "environments" / f"{name}.txt", described.read_text(encoding="utf-8"))


def ensure_all(
    planned: tuple[Planned, ...], oracle: Planned | None, on_line: Callable[[str], None]
) -> tuple[tuple[Planned, ...], Planned | None]:
    """Make the environments of all variants, two at a time; a variant whose environment fails is skipped."""
    everything = (*planned, oracle) if oracle else planned
    wanted = {used(p): p for p in everything if used(p) and not p.skip}
    with ThreadPoolExecutor(max_workers=2) as pool:
        failed = dict(zip(wanted, pool.map(lambda p: _why_not(p, on_line), wanted.values()), strict=True))

    def marked(chosen: Planned) -> Planned:
        return msgspec.structs.replace(chosen, skip=chosen.skip or failed.get(used(chosen), ""))

    return tuple(marked(p) for p in planned), marked(oracle) if oracle else None


def _why_not(planned: Planned, on_line: Callable[[str], None]) -> str:
    try:
        ensure(planned, on_line)
    except HarnessError as error:
        return str(error)
    return ""
