"""Runs of the log as series: what was measured alike, by the label as it was proven. Pure.

Two runs are points of one series when variant, proven settings, model, workload and load, what the command
line changed, and the kind of host are the same. Version, commit, driver and the host itself are not part of
it: they are what a change is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from harness.schema import (
    Interval,
    Load,
    LogFacts,
    LoggedLabel,
    LoggedRow,
    Options,
    Recipe,
    Scalar,
    WorkloadSpec,
    scenario,
)

UNPROVEN = "not proven"
_JUDGING = (
    *("against", "budget_s", "percentile", "price", "second_opinion", "slo_share", "strict"),
    *("task_limit", "tasks", "api_key_env", "place", "place_wait_s", "served_name", "workers"),
    *("hypothesis", "seal", "smallest"),
)
"""Options that change what is said of a measurement, or who carries it out, not the measurement."""
_LENGTHS = ("input_len", "output_len")
_SHAPES = ("burstiness", "ramp_to", "stages", "time_scale", "duration_s")
"""Fields of a load that its label does not tell."""
_CLOSED = Load()
_POINTS = ("done", "failed")
"""What was skipped or interrupted says nothing."""
_LAUNCHER = "launcher="


class Metric(NamedTuple):
    """A figure that has a history."""

    name: str
    title: str
    factor: float
    """To the unit of the title."""
    lower_is_better: bool


METRICS = (
    Metric("output_throughput", "output tok/s", 1.0, False),
    Metric("ttft", "TTFT p50 ms", 1e3, True),
    Metric("tpot", "TPOT p50 ms", 1e3, True),
)


class Key(NamedTuple):
    """What the points of a series have in common; every part in words."""

    variant: str
    label: str
    """Settings that the name claims, as the engine showed them; UNPROVEN where nothing shows them."""
    model: str
    workload: str
    """Scenario, requests, other parameters."""
    changed: str
    """What the command line or the recipe changed of the variant or of the requests; "" = nothing."""
    host: str
    """Kind of host."""

    @property
    def lane(self) -> Key:
        """The same, whatever the label."""
        return self._replace(label="")


class Point(NamedTuple):
    """One row of one run."""

    facts: LogFacts
    row: LoggedRow
    label: LoggedLabel | None
    key: Key

    @property
    def state(self) -> str:
        """Its verdict; INVALID or failed where it has none that counts."""
        if self.row.status == "failed":
            return "failed"
        return "INVALID" if self.row.invalid else self.row.verdict or "not verified"

    def value(self, metric: Metric) -> Interval | None:
        """In the metric's unit; None where it must not be compared, or is not known."""
        if not self.row.rankable:
            return None
        if metric.name == "output_throughput":
            found = self.row.output_throughput
        else:
            seconds = self.row.ttft_p50_s if metric.name == "ttft" else self.row.tpot_p50_s
            found = None if seconds is None else Interval(mean=seconds, low=seconds, high=seconds, num=1)
        if found is None:
            return None
        mean, low, high = (metric.factor * value for value in (found.mean, found.low, found.high))
        return Interval(mean=mean, low=low, high=high, num=found.num)


class Series(NamedTuple):
    """Points of one key, oldest first."""

    key: Key
    points: tuple[Point, ...]

    @property
    def newest(self) -> Point:
        """The last one."""
        return self.points[-1]


def all_series(past: Iterable[LogFacts]) -> list[Series]:
    """Every series, that with the newest point first. `past`: one entry per run."""
    lanes: dict[Key, list[Point]] = {}
    for facts in sorted(past, key=lambda f: (f.date, f.run_id)):
        for point in points(facts):
            lanes.setdefault(point.key.lane, []).append(point)
    found = [series for points in lanes.values() for series in _by_label(points)]
    found.sort(key=lambda s: s.key)
    return sorted(found, key=lambda s: s.newest.facts.date, reverse=True)


def _by_label(points: Sequence[Point]) -> Iterable[Series]:
    """A lane by proven label. One that did not prove it belongs to the label of the run before."""
    groups: dict[str, list[Point]] = {}
    proven = [point.key.label for point in points if point.key.label != UNPROVEN]
    label = proven[0] if proven else UNPROVEN
    for point in points:
        unproven = point.key.label == UNPROVEN and (point.row.invalid or point.row.status != "done")
        label = label if unproven else point.key.label
        groups.setdefault(label, []).append(point)
    return (Series(members[0].key._replace(label=name), tuple(members)) for name, members in groups.items())


def points(facts: LogFacts) -> list[Point]:
    """The rows of a run that say something."""
    return [_point(facts, row) for row in facts.rows if row.status in _POINTS]


def asked(key: Key) -> Key:
    """What was asked: the key without what was found, or where: label, launcher and host."""
    changed = [part for part in key.changed.split(", ") if not part.startswith(_LAUNCHER)]
    return key._replace(label="", host="", changed=", ".join(changed))


def _point(facts: LogFacts, row: LoggedRow) -> Point:
    label = next((one for one in facts.labels if one.variant == row.variant), None)
    return Point(facts, row, label, _key(facts, row, label))


def _key(facts: LogFacts, row: LoggedRow, label: LoggedLabel | None) -> Key:
    return Key(
        variant=row.variant,
        label=settings(label.claims) or UNPROVEN if label and label.proven else UNPROVEN,
        model=(label.model if label else "") or facts.recipe.model or "the variant's default",
        workload=workload(facts.recipe, row.scenario),
        changed=changed(facts.recipe, label.launcher if label else facts.recipe.launcher or ""),
        host=facts.machine.kind if facts.machine else f"host {facts.host}",
    )


def settings(claims: dict[str, Scalar]) -> str:
    """Settings in words: "dtype bfloat16, prefix_cache False"."""
    return ", ".join(f"{name} {value}" for name, value in claims.items())


def workload(recipe: Recipe, name: str) -> str:
    """The workload and load of a scenario with all that decides what is sent, but the seed."""
    found = next(((w, load) for w, load in recipe.offered if scenario(w, load) == name), None)
    return ", ".join((name, *_sent(recipe, *found))) if found else name


def _sent(recipe: Recipe, spec: WorkloadSpec, load: Load) -> Iterator[str]:
    """What a scenario's name does not say of its requests."""
    if spec.title:
        yield msgspec.structs.replace(spec, title="").label
    yield f"{spec.num_prompts} requests"
    for name, value in sorted(spec.params.items()):
        if name not in _LENGTHS:
            yield f"{name}={value}"
    for name in _SHAPES:
        if (value := getattr(load, name)) != getattr(_CLOSED, name):
            yield f"{name}={value}"
    if load.search:
        yield from (f"slo.{name}={limit:g}" for name, limit in sorted(recipe.slo.items()))


def changed(recipe: Recipe, launcher: str) -> str:
    """What makes this bench of a variant another than the variant's own."""
    usual = msgspec.to_builtins(Options())
    given = msgspec.to_builtins(recipe.options)
    names = Options.__struct_encode_fields__
    options = [
        f"{filed}={given[filed]}"
        for field, filed in zip(Options.__struct_fields__, names, strict=True)
        if field not in _JUDGING and filed in given and given[filed] != usual.get(filed)
    ]
    parts = [
        f"{_LAUNCHER}{launcher}" if launcher else "",
        f"args={' '.join(recipe.args)}" if recipe.args else "",
        *(f"env.{name}={value}" for name, value in sorted(recipe.env.items())),
        *(f"settings.{name}={value}" for name, value in sorted(recipe.settings.items())),
        *options,
    ]
    return ", ".join(part for part in parts if part)
