"""Makes the process environment of a planned variant, on first use."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from harness import engine_env, registry
from harness.errors import HarnessError
from harness.plan import Planned


def ensure(planned: Planned, on_line: Callable[[str], None]) -> None:
    """Create .engines/<environment> when this variant is launched from it and it is not there.

    Raises MachineError with the package manager's last lines.
    """
    name = planned.variant.environment
    if planned.launch.launcher == "process" and name and planned.deployment.python.startswith(".engines/"):
        engine_env.ensure(name, registry.ROOT, on_line)


def ensure_all(planned: tuple[Planned, ...], on_line: Callable[[str], None]) -> tuple[Planned, ...]:
    """Make the environments of all variants, two at a time; a variant whose environment fails is skipped."""
    wanted = {p.variant.environment: p for p in planned if p.variant.environment and not p.skip}
    with ThreadPoolExecutor(max_workers=2) as pool:
        failed = dict(zip(wanted, pool.map(lambda p: _why_not(p, on_line), wanted.values()), strict=True))
    return tuple(
        msgspec.structs.replace(p, skip=p.skip or failed.get(p.variant.environment, "")) for p in planned
    )


def _why_not(planned: Planned, on_line: Callable[[str], None]) -> str:
    try:
        ensure(planned, on_line)
    except HarnessError as error:
        return str(error)
    return ""
