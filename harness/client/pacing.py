"""When requests go out: arrival times computed once, from one seed, before anything is sent.

Every shape is a unit-rate arrival process (Poisson, gamma, or even) carried through the inverse of the
cumulative rate, so ramp and stages are the same process at a changing rate. Times are absolute offsets in
seconds from the start of the timed part: a late request never shifts the ones behind it.
"""

from __future__ import annotations

import math
import random
from itertools import accumulate

from harness.errors import InputError
from harness.schema import Load


def is_open(load: Load) -> bool:
    """True when requests are due at given times; False when they follow each other (closed loop)."""
    return load.arrival != "closed" or load.request_rate is not None


def due_times(load: Load, num: int, seed: int) -> tuple[float, ...]:
    """Due times of `num` requests, seconds, not decreasing, the first at 0; zeros in a closed loop.

    Raises InputError when the shape lacks its rate, or for "trace", whose times the workload brings.
    """
    if not is_open(load):
        return (0.0,) * num
    if load.arrival == "trace":
        raise InputError("arrival=trace takes its times from the workload: use workload trace, or give rate=")
    units = _unit_arrivals(load, num, seed)
    if load.arrival == "ramp":
        return _ramp(_rate(load), _ramp_to(load), units)
    if load.arrival == "stages":
        return _stages(load.stages, units)
    rate = _rate(load)
    return tuple(u / rate for u in units)


def _unit_arrivals(load: Load, num: int, seed: int) -> tuple[float, ...]:
    """Arrivals of rate 1. Gamma gaps of shape k and mean 1 have variance 1/k; k = 1 is Poisson."""
    if load.arrival == "constant":
        return tuple(float(i) for i in range(num))
    shape = load.burstiness
    if shape <= 0 or not math.isfinite(shape):
        raise InputError(f"burstiness={shape:g} is not a gamma shape: give a number above 0 (1 = Poisson)")
    draw = random.Random(f"arrivals:{seed}")
    if shape == 1.0:
        gaps = (draw.expovariate(1.0) for _ in range(num - 1))
    else:
        gaps = (draw.gammavariate(shape, 1.0 / shape) for _ in range(num - 1))
    return tuple(accumulate(gaps, initial=0.0))[:num]


def _rate(load: Load) -> float:
    if not load.request_rate or load.request_rate <= 0 or not math.isfinite(load.request_rate):
        raise InputError(
            f"arrival={load.arrival} needs a request rate above 0: give rate=REQUESTS_PER_SECOND"
        )
    return load.request_rate


def _ramp_to(load: Load) -> float:
    if not load.ramp_to or load.ramp_to <= 0:
        raise InputError("arrival=ramp needs the rate it ends at, above 0: give ramp_to=REQUESTS_PER_SECOND")
    return load.ramp_to


def _ramp(start: float, end: float, units: tuple[float, ...]) -> tuple[float, ...]:
    """Rate runs linearly from start to end over the time that len(units) requests take, then stays.

    The cumulative rate a*t + b*t^2/2 is inverted in the form 2u / (a + sqrt(a^2 + 2bu)), which also
    holds for b = 0.
    """
    duration = 2 * len(units) / (start + end)
    slope = (end - start) / duration
    inside = len(units)
    return tuple(
        2 * u / (start + math.sqrt(max(0.0, start * start + 2 * slope * u)))
        if u <= inside
        else duration + (u - inside) / end
        for u in units
    )


def _stages(stages: tuple[tuple[float, float], ...], units: tuple[float, ...]) -> tuple[float, ...]:
    """Piecewise constant rate; requests beyond the last stage keep its rate."""
    if not stages or any(d <= 0 or r < 0 for d, r in stages) or stages[-1][1] <= 0:
        raise InputError("arrival=stages needs (duration_s, requests/s) pairs; the last rate must be above 0")
    times: list[float] = []
    index, begun, passed = 0, 0.0, 0.0
    for unit in units:
        while index < len(stages) - 1 and unit >= passed + stages[index][0] * stages[index][1]:
            begun += stages[index][0]
            passed += stages[index][0] * stages[index][1]
            index += 1
        times.append(begun + (unit - passed) / stages[index][1])
    return tuple(times)
