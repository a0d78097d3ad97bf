"""Host drift: a short fixed piece of work before each launch, and what its spread says about a run.

It runs before the launch, not beside an idle engine, because idle engines spin to different degrees.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness import launchers
from harness.errors import MachineError
from harness.escape import plain
from harness.host import environment, gpus, matmul
from harness.schema import Calibration, GpuSample, Launch

TRIES = 5
HASHED_MB = 32
COPIED_MB = 64
DRIFT = 0.05
"""Relative spread between launches above which it is noted."""
FREED_S, STILL_S = 120.0, 10.0
"""Longest wait for accelerator memory; wait without any of it being given back."""
_STEP_S, _FALLING_GB = 1.0, 0.1
_FOREIGN_GB = 1.0
"""Accelerator memory already in use before a launch that is worth a note."""


def freed(sample: gpus.Reader, num_gpus: int, pause: Callable[[float], None] = time.sleep) -> float:
    """Seconds waited until `num_gpus` accelerators are free of what the last engine held.

    No longer than memory goes on falling, and FREED_S at most: what stays is somebody else's, and noted.
    """
    waited, still, least = 0.0, 0.0, float("inf")
    while num_gpus and waited < FREED_S and still < STILL_S:
        held = [g.memory_used_gb or 0.0 for g in sample()]
        if sum(used <= _FOREIGN_GB for used in held) >= min(num_gpus, len(held)):
            break
        still = 0.0 if sum(held) < least - _FALLING_GB else still + _STEP_S
        least = min(least, sum(held))
        pause(_STEP_S)
        waited += _STEP_S
    return waited


def calibrate(launch: Launch | None = None) -> Calibration:
    """About a third of a second on one core; then, in the engine's own environment, its accelerators.

    They are waited for first: a driver takes seconds to give back what the engine before held.
    """
    data = bytes(HASHED_MB << 20)
    source = np.ones(COPIED_MB << 17)
    target = np.empty_like(source)
    sensors = gpus.readable()
    waited_s = 0.0 if isinstance(sensors, gpus.Unreadable) or not launch else freed(sensors, launch.num_gpus)
    found, skipped = _accelerators(launch) if launch else ({}, "nothing is launched")
    return Calibration(
        taken_at=environment.now(),
        cpu_mb_s=HASHED_MB * 1.048576 / _best(lambda: hashlib.sha256(data).digest()),
        memory_gb_s=2e-9 * source.nbytes / _best(lambda: np.copyto(target, source)),
        load_average=os.getloadavg()[0],
        gpus=() if isinstance(sensors, gpus.Unreadable) else sensors(),
        gpu_tflops=tuple(found.get("tflops", ())),
        gpu_device=found.get("device", ""),
        gpu_skipped=skipped,
        waited_s=waited_s,
        gpus_unread=sensors.why if isinstance(sensors, gpus.Unreadable) else "",
    )


def _accelerators(launch: Launch) -> tuple[dict[str, Any], str]:
    """What harness/host/matmul.py says of the launch's accelerators, and why it says nothing."""
    if not launch.num_gpus:
        return {}, "no accelerator is used"
    try:
        words = launchers.of(launch).python(launch, Path(matmul.__file__), str(launch.num_gpus))
        found: dict[str, Any] = json.loads(words.strip().splitlines()[-1])
    except MachineError as error:
        return {}, error.message
    except (ValueError, IndexError):
        return {}, "the engine's Python did not run it"
    return ({}, plain(found["error"])) if "error" in found else (found, "")


def drift(taken: Mapping[str, Calibration]) -> tuple[str, ...]:
    """Sentences about what changed on the host between launches; `taken` maps a launch's name to its own."""
    notes = [
        _spread("CPU speed", {name: c.cpu_mb_s for name, c in taken.items()}, "MB/s of sha256"),
        _spread("memory speed", {name: c.memory_gb_s for name, c in taken.items()}, "GB/s"),
        _spread("GPU speed", {n: min(c.gpu_tflops) for n, c in taken.items() if c.gpu_tflops}, "TFLOP/s"),
        *(_uneven(name, c) for name, c in taken.items()),
        *(_occupied(name, c) for name, c in taken.items()),
        *dict.fromkeys(c.gpus_unread for c in taken.values()),
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


def _uneven(name: str, calibration: Calibration) -> str:
    """Accelerators of one launch that differ from each other: the slowest sets the pace of all."""
    speeds = calibration.gpu_tflops
    if len(speeds) < 2 or max(speeds) / min(speeds) - 1 <= DRIFT:
        return ""
    return (
        f"before {name}, accelerator {speeds.index(min(speeds))} did {min(speeds):.3g} TFLOP/s of bf16 and "
        f"accelerator {speeds.index(max(speeds))} did {max(speeds):.3g}; the slowest sets the pace of all"
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
