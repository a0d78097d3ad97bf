"""`just history` in words: each series with its values, changes and flips. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.escape import plain
from harness.history import changes
from harness.history.series import METRICS, UNPROVEN, Key, Metric, Series
from harness.reporting.cells import number
from harness.schema import Interval

VERDICT = "verdict"
_WIDE = 2000
"""Characters of a line."""


def blocks(found: Sequence[Series], metrics: Sequence[Metric], *, every: bool) -> list[str]:
    """One block per variant, label, model and host, with its workloads; `every` lists each run of them.

    Raises MachineError where a series is long enough for change points and Otava is not installed.
    """
    groups: dict[Key, list[Series]] = {}
    for series in found:
        groups.setdefault(series.key._replace(workload=""), []).append(series)
    texts = []
    for key, members in groups.items():
        lines = [plain(head(key), _WIDE), f"  label: {plain(label(key), _WIDE)}"]
        for series in members:
            lines += _workload(series, metrics, every=every)
        texts.append("\n".join(lines))
    short = sum(len(series.points) < changes.FEWEST for series in found)
    if short:
        texts.append(
            f"Change points need {changes.FEWEST} runs of a series; {short} of {len(found)} shown here have "
            "fewer."
        )
    return texts


def _workload(series: Series, metrics: Sequence[Metric], *, every: bool) -> list[str]:
    first, last, num = _date(series, 0), _date(series, -1), len(series.points)
    ran = f"{num} runs, {first} to {last}" if num > 1 else f"1 run, {last}"
    values = [told for metric in metrics if (told := figure(series, metric))]
    found = [*verdicts(series), *(line for metric in metrics for line in altered(series, metric))]
    listed = runs(series, metrics) if every else ()
    return [
        f"  {plain(series.key.workload, _WIDE)}: {'; '.join((ran, *values))}",
        *(f"    {plain(line, _WIDE)}" for line in found),
        *(f"      {plain(line, _WIDE)}" for line in listed),
    ]


def head(key: Key) -> str:
    """What was measured, and on which kind of host."""
    return " · ".join(part for part in (key.variant, key.model, key.changed, key.host) if part)


def label(key: Key) -> str:
    """The proven settings."""
    return f"{UNPROVEN}: nothing that is kept shows it" if key.label == UNPROVEN else key.label


def figure(series: Series, metric: Metric) -> str:
    """First and newest value of one figure; "" where it has none."""
    found = changes.measured(series, metric)
    if not found:
        return ""
    (_, old), (_, new) = found[0], found[-1]
    return (
        f"{metric.title} {value(old)} -> {value(new)}" if len(found) > 1 else f"{metric.title} {value(new)}"
    )


def altered(series: Series, metric: Metric) -> Iterator[str]:
    """Where the level of a figure changed; of a series too short for that, which neighbours are apart."""
    for change in changes.changes(series, metric):
        yield changed(series, change, metric)
    if len(changes.measured(series, metric)) < changes.FEWEST:
        for step in changes.steps(series, metric):
            yield stepped(series, step, metric)


def changed(series: Series, change: changes.Change, metric: Metric) -> str:
    """A change point: how much, how sure, and what else was new."""
    run = series.points[change.at].facts
    word = "worse" if changes.worse(change, metric) else "better"
    return (
        f"{metric.title} changed with {run.run_id}: {number(change.before)} before, {number(change.after)} "
        f"from then on ({change.ratio:+.1%}, {word}, p {change.p_value:.1g}); {_also(series, change.at)}"
    )


def stepped(series: Series, step: changes.Step, metric: Metric) -> str:
    """Two neighbours whose intervals do not overlap."""
    ratio = step.after.mean / step.before.mean - 1.0
    run = series.points[step.at].facts
    return (
        f"{metric.title} {ratio:+.1%} with {run.run_id} against the run before, intervals over restarts "
        f"apart; {_also(series, step.at)}"
    )


def verdicts(series: Series) -> Iterator[str]:
    """The verdict over time: one word where it never changed, else each flip."""
    found = changes.flips(series)
    if not found:
        yield f"verdict {series.newest.state}" + ", always" * (len(series.points) > 1)
        return
    yield f"verdict {series.points[0].state} at first, {series.newest.state} now"
    for flip in found:
        point = series.points[flip.at]
        why = f" ({point.row.invalid})" if point.state == "INVALID" else ""
        run = point.facts.run_id
        yield f"{flip.before} to {flip.after}{why} with {run}; {_also(series, flip.at)}"


def runs(series: Series, metrics: Sequence[Metric]) -> Iterator[str]:
    """One line a run, oldest first."""
    for point in series.points:
        values = [f"{m.title} {value(v)}" for m in metrics if (v := point.value(m))]
        version = point.label.engine_version if point.label else ""
        facts = (*values, point.state, version, point.facts.commit[:8], f"host {point.facts.host}")
        yield f"{point.facts.date} {point.facts.run_id}: {', '.join(fact for fact in facts if fact)}"


def value(found: Interval) -> str:
    """With its interval where there are several restarts."""
    if found.num < 2:
        return number(found.mean)
    return f"{number(found.mean)} [{number(found.low)}-{number(found.high)}, n={found.num}]"


def _also(series: Series, at: int) -> str:
    return "; ".join(changes.also(series, at)) or "nothing else that is kept was new"


def _date(series: Series, at: int) -> str:
    return series.points[at].facts.date[:10]


def chosen(name: str) -> tuple[Metric, ...]:
    """The metric of that name, all for "", none for the verdict alone."""
    return METRICS if not name else tuple(metric for metric in METRICS if metric.name == name)
