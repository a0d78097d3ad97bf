"""Host drift: a short fixed piece of work before each launch, and what its spread says about a run.

It runs before the launch, not beside an idle engine, because idle engines spin to different degrees.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping

import numpy as np

from harness.host import environment, gpus
from harness.schema import Calibration, GpuSample

TRIES = 5
HASHED_MB = 32
COPIED_MB = 64
DRIFT = 0.05
"""Relative spread between launches above which it is noted."""
_FOREIGN_GB = 1.0
"""Accelerator memory already in use before a launch that is worth a note."""


def calibrate() -> Calibration:
    """About a third of a second on one core."""
    data = bytes(HASHED_MB << 20)
    source = np.ones(COPIED_MB << 17)
    target = np.empty_like(source)
    read_gpus = gpus.reader()
    return Calibration(
        taken_at=environment.now(),
        cpu_mb_s=HASHED_MB * 1.048576 / _best(lambda: hashlib.sha256(data).digest()),
        memory_gb_s=2e-9 * source.nbytes / _best(lambda: np.copyto(target, source)),
        load_average=os.getloadavg()[0],
        gpus=read_gpus() if read_gpus else (),
    )


def drift(taken: Mapping[str, Calibration]) -> tuple[str, ...]:
    """Sentences about what changed on the host between launches; `taken` maps a launch's name to its own."""
    notes = [
        _spread("CPU speed", {name: c.cpu_mb_s for name, c in taken.items()}, "MB/s of sha256"),
        _spread("memory speed", {name: c.memory_gb_s for name, c in taken.items()}, "GB/s"),
        *(_occupied(name, c) for name, c in taken.items()),
    ]
    return tuple(note for note in notes if note)


def _best(work: Callable[[], object]) -> float:
    """Seconds of the fastest try: what the host can do, least disturbed."""
    times = []
    for _ in range(TRIES):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)


def _spread(what: str, values: Mapping[str, float], unit: str) -> str:
    if len(values) < 2:
        return ""
    low, high = min(values, key=lambda k: values[k]), max(values, key=lambda k: values[k])
    spread = values[high] / values[low] - 1
    if spread <= DRIFT:
        return ""
    return (
        f"host drift: {what} differed by {spread:.0%} between launches ({values[low]:.3g} {unit} before "
        f"{low}, {values[high]:.3g} before {high}); differences of that size are not the engines'"
    )


def _occupied(name: str, calibration: Calibration) -> str:
    held = [g for g in calibration.gpus if (g.memory_used_gb or 0.0) > _FOREIGN_GB]
    hot = sorted({reason for g in calibration.gpus for reason in g.throttle if reason != "power"})
    words = []
    if held:
        words.append(f"{len(held)} accelerators already held memory (up to {_most(held):.0f} GB)")
    if hot:
        words.append(f"accelerators were throttled ({', '.join(hot)})")
    return f"before {name}, " + " and ".join(words) if words else ""


def _most(held: list[GpuSample]) -> float:
    return max(g.memory_used_gb or 0.0 for g in held)
