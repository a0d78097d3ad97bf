"""Energy of a trial from its telemetry, and what a token costs. Pure.

Energy is the trapezoid integral of power samples over the window, summed over the accelerators used. It is
published only when no gap between samples exceeds 3 s, the samples span the window, and the drivers' own
energy counters, where they exist, agree within 5 %.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.schema import Energy, GpuSample, Load, Sample

MAX_GAP_S = 3.0
COUNTER_TOLERANCE = 0.05
MIN_SAMPLES = 3
"""Once a second: a shorter trial says nothing of how busy an accelerator was."""
BUSY = 0.7
"""On two H200 a loop of 256 that the GPUs bounded showed 0.98-0.99, loops that the host bounded 0.24-0.65."""


def energy(
    samples: Sequence[Sample], window: tuple[float, float], num_gpus: int, num_tokens: int = 0
) -> Energy | None:
    """Energy of the `num_gpus` busiest accelerators over the window (start, end), in the trial's seconds.

    None when no accelerator showed its power.
    """
    used = [s for s in samples if any(g.power_w is not None for g in s.gpus)]
    start, end = window
    if len(used) < 2 or end <= start or num_gpus < 1:
        return None
    chosen = _busiest(used, num_gpus)
    times = np.array([s.at_s for s in used])
    joules = sum(_integral(times, _powers(used, index), window) for index in chosen)
    counted = [_counted(used, index, window) for index in chosen]
    counter = sum(c for c in counted if c is not None) if None not in counted else None
    inside = [s for s in used if start <= s.at_s <= end]
    throttled = {reason for s in inside for g in s.gpus if g.index in chosen for reason in g.throttle}
    return Energy(
        duration_s=end - start,
        mean_power_w=joules / (end - start),
        energy_j=joules,
        counter_j=counter,
        joules_per_output_token=joules / num_tokens if num_tokens else None,
        throttled=tuple(sorted(throttled)),
        utilization=_utilization(inside, chosen),
        invalid=_unseen(num_gpus, len(chosen)) or _doubt(times, window, joules, counter),
    )


def host_bound(energy: Energy | None, load: Load) -> str:
    """Why the layout of the accelerators is not what was measured; "" where they were busy, or free to rest.

    Only under a closed loop, where a request always waits to be served: accelerators that idle there wait for
    the engine's scheduler, detokenizer or API server.
    """
    closed = load.max_concurrency is not None and load.request_rate is None
    if energy is None or energy.utilization is None or not closed or energy.utilization >= BUSY:
        return ""
    return (
        f"the accelerators ran kernels {energy.utilization:.0%} of the time with {load.max_concurrency} "
        "requests in flight: the host's side of the engine sets this pace, not their layout"
    )


def cost_per_million_tokens(
    price_per_gpu_hour: float, num_gpus: int, output_throughput: float
) -> float | None:
    """Price of 1e6 output tokens, in the currency of the price; None without throughput."""
    if output_throughput <= 0:
        return None
    return price_per_gpu_hour * num_gpus / 3600.0 / output_throughput * 1e6


def _doubt(times: np.ndarray, window: tuple[float, float], joules: float, counter: float | None) -> str:
    gap = float(np.diff(times).max())
    if gap > MAX_GAP_S:
        return f"{gap:.1f} s without a power sample"
    missing = max(float(times[0]) - window[0], window[1] - float(times[-1]))
    if missing > MAX_GAP_S:
        return f"{missing:.1f} s of the window have no power sample"
    if counter and abs(joules / counter - 1) > COUNTER_TOLERANCE:
        return f"power samples say {joules:.0f} J, the energy counters {counter:.0f} J: over 5 % apart"
    return ""


def _utilization(samples: Sequence[Sample], chosen: Sequence[int]) -> float | None:
    """Mean share of the time; None from fewer than MIN_SAMPLES, which may all fall between two kernels."""
    if len(samples) < MIN_SAMPLES:
        return None
    used = [g for s in samples for g in s.gpus if g.index in chosen]
    shares = [g.utilization for g in used if g.utilization is not None]
    return float(np.mean(shares)) if shares else None


def _unseen(wanted: int, seen: int) -> str:
    """Sensors are read on the client's machine: an engine may have accelerators on others too."""
    return "" if seen >= wanted else f"{seen} of {wanted} accelerators are on this machine, the others unseen"


def _busiest(samples: Sequence[Sample], num: int) -> tuple[int, ...]:
    """The accelerators that drew most: those the engine used, whatever their numbers."""
    indices = {g.index for s in samples for g in s.gpus}
    mean = {index: float(np.nanmean(_powers(samples, index))) for index in indices}
    return tuple(sorted(sorted(mean, key=lambda i: -mean[i])[:num]))


def _powers(samples: Sequence[Sample], index: int) -> np.ndarray:
    return np.array([_value(_of(s, index), "power_w") for s in samples])


def _of(sample: Sample, index: int) -> GpuSample | None:
    return next((g for g in sample.gpus if g.index == index), None)


def _value(gpu: GpuSample | None, name: str) -> float:
    value = getattr(gpu, name, None)
    return float("nan") if value is None else float(value)


def _integral(times: np.ndarray, values: np.ndarray, window: tuple[float, float]) -> float:
    """Trapezoid over the window; the ends are interpolated, and held constant beyond the samples."""
    known = np.isfinite(values)
    times, values = times[known], values[known]
    inside = times[(times > window[0]) & (times < window[1])]
    grid = np.concatenate([[window[0]], inside, [window[1]]])
    return float(np.trapezoid(np.interp(grid, times, values), grid))


def _counted(samples: Sequence[Sample], index: int, window: tuple[float, float]) -> float | None:
    """Difference of the energy counter over the window, interpolated at its ends."""
    counts = np.array([_value(_of(s, index), "energy_j") for s in samples])
    known = np.isfinite(counts)
    if known.sum() < 2 or np.any(np.diff(counts[known]) < 0):
        return None
    times = np.array([s.at_s for s in samples])[known]
    low, high = np.interp(window, times, counts[known])
    return float(high - low)
