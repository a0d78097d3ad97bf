"""What variants are held against each other in, by the load: primary figures and exploratory ones. Pure.

A closed loop asks how much work is done and how fast each of its users is served; an open loop fixes the
work, so its throughput is what was offered and the question is what a user waits; a search asks for the rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from harness.schema import Distribution, Energy, Load, Metrics


class Seen(NamedTuple):
    """What is known of one trial."""

    metrics: Metrics
    num_gpus: int = 0
    steady: bool = False
    """Throughput of the plateau: every trial of the scenario has one."""
    energy: Energy | None = None
    rate: float | None = None
    """What a search found, requests/s."""


class Figure(NamedTuple):
    """One number of a trial."""

    name: str
    title: str
    value: Callable[[Seen], float | None]
    """None where the trial does not show it."""
    primary: bool = True
    lower_is_better: bool = False


def figures(load: Load, slo: bool, tails: dict[str, float]) -> tuple[Figure, ...]:
    """The figures of a load, primary ones first.

    `tails` names the highest certified percentile of ttft and tpot, 0 .. 1, where it is above the median.
    Percentiles beyond the median stay exploratory: they move with it, and a correction would charge for them
    twice; what a tail is worth to a user is what goodput says.
    """
    if load.search:
        return (Figure("goodput_rate", "rate within the SLO", lambda seen: seen.rate),)
    closed = load.arrival == "closed" and not load.request_rate
    found = _closed() if closed else _open(slo)
    clock = "ttft" if closed else "due_ttft"
    return (*found, *_tails(clock, tails), *_shown(closed))


def ranking(load: Load, slo: bool) -> tuple[Figure, ...]:
    """The figures that rank a load whose throughput is what was offered, the first deciding.

    A search: the rate. Else the share within the SLO where there is one (goodput without the length of the
    window, in which the last answer to end decides), then the whole wait from the due time, which holds the
    TTFT and every TPOT of an answer. () for closed loops: there the throughput is what was reached.
    """
    found = {figure.name: figure for figure in figures(load, slo, {}) if figure.primary}
    if "goodput" in found:
        found["goodput"] = Figure("goodput", "requests within the SLO", _share)
    return tuple(found[name] for name in ("goodput_rate", "goodput", "due_e2el_p50") if name in found)


def _closed() -> tuple[Figure, ...]:
    return (
        Figure("output_throughput", "output tok/s per GPU", _per_gpu),
        Figure("speed_per_user", "tok/s per user (1/TPOT)", _speed),
    )


def _open(slo: bool) -> tuple[Figure, ...]:
    found = (
        _latency("due_ttft", "TTFT p50 from due"),
        _latency("tpot", "TPOT p50"),
        _latency("due_e2el", "E2EL p50 from due"),
    )
    goodput = Figure("goodput", "goodput", lambda seen: seen.metrics.request_goodput)
    return (*found, goodput) if slo else found


def _shown(closed: bool) -> tuple[Figure, ...]:
    from_sent = (_latency("ttft", "TTFT p50 from sent"), _latency("e2el", "E2EL p50 from sent"))
    rate = () if closed else (Figure("output_throughput", "output tok/s per GPU", _per_gpu),)
    shown = (*from_sent, *rate, Figure("energy", "J per output token", _joules, lower_is_better=True))
    return tuple(figure._replace(primary=False) for figure in shown)


def _tails(clock: str, tails: dict[str, float]) -> Iterator[Figure]:
    for name, title in ((clock, "TTFT"), ("tpot", "TPOT")):
        share = tails.get(name, 0.0)
        if share > 0.5:
            yield _latency(name, f"{title} p{100 * share:g}", share)._replace(primary=False)


def _latency(name: str, title: str, share: float = 0.5) -> Figure:
    key = f"p{100 * share:g}"
    return Figure(
        f"{name}_{key}", title, lambda seen: _percentile(seen.metrics, name, key), lower_is_better=True
    )


def _percentile(metrics: Metrics, name: str, key: str) -> float | None:
    """None where answers arrived whole: TTFT and TPOT are then those of the delivery."""
    if metrics.delivered and not name.endswith("e2el"):
        return None
    values: Distribution | None = getattr(metrics, f"{name}_s")
    value: float | None = getattr(values, key) if values else None
    return value


def _share(seen: Seen) -> float | None:
    found = seen.metrics
    num = found.completed + found.failed
    if found.request_goodput is None or not num:
        return None
    return round(found.request_goodput * found.window_s) / num


def _per_gpu(seen: Seen) -> float | None:
    steady = seen.metrics.steady_output_throughput if seen.steady else None
    return (steady or seen.metrics.output_throughput) / max(1, seen.num_gpus)


def _speed(seen: Seen) -> float | None:
    tpot = _percentile(seen.metrics, "tpot", "p50")
    return 1.0 / tpot if tpot else None


def _joules(seen: Seen) -> float | None:
    return seen.energy.joules_per_output_token if seen.energy and not seen.energy.invalid else None
