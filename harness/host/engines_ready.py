"""Makes the process environment of a planned variant, on first use."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from harness import registry
from harness.errors import HarnessError
from harness.host import engine_env
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
        engine_env.ensure(name, registry.ROOT, lambda line: on_line(f"installing {name}: {line}"))


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
