"""What report.html shows of one run beyond the table, read from its folder and from the experiment log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harness import extras, store
from harness.errors import StoreError
from harness.numbers import collector, metrics
from harness.numbers.columns import Columns
from harness.reporting import curves, history, log, plots, report_agreement, report_pareto
from harness.reporting.curves import Curve
from harness.reporting.report_html import Block, Group, Section
from harness.schema import Comparison, Recipe, RequestRecord, Sample, Score, TrialResult

_GAUGES = (
    ("running", "requests running"),
    ("waiting", "requests waiting"),
    ("kv_usage", "KV cache used (share)"),
    ("preemptions", "preemptions"),
)
Draw = Callable[[str, "list[TrialView]", Sequence[str]], list[str]]
"""(scenario, its trials, order of the variants' colours) -> plots."""
_NUM_LATENCIES = 2
"""Plots of a timeline that come before those of telemetry: TTFT and TPOT."""
_NUM_ANSWERS = 2
_ANSWER_LEN = 1200


class TrialView(NamedTuple):
    """One trial, as the plots need it."""

    result: TrialResult
    table: Columns
    samples: list[Sample]
    scores: list[Score]
    said: list[RequestRecord]
    """Answers: all of them, or an even sample where there are very many."""

    @property
    def variant(self) -> str:
        """Name for legends."""
        return self.result.trial.variant


def sections(
    run: Path, comparison: Comparison, recipe: Recipe, entries: Sequence[log.Entry]
) -> list[Section]:
    """Plots, agreement, history, answers and log tails. Trials that cannot be read are left out."""
    trials, failures = _read(run)
    scenarios = list(dict.fromkeys(row.scenario for row in comparison.rows))
    order = tuple(dict.fromkeys(row.variant for row in comparison.rows))
    past = history.of(entries, recipe.question, recipe.model, comparison.host)
    return [
        report_pareto.section(comparison.rows, order),
        Section("Latencies", groups=_grouped(scenarios, trials, _distributions, order)),
        Section(
            "Over time",
            "The first restart of each variant. TTFT and TPOT by the time a request was sent: median, with a "
            "band from p10 to p90; beneath them, on the same axis, what the engine and the accelerators "
            "showed. What stayed at zero for all is not drawn.",
            groups=[
                Group(g.title, g.plots[:_NUM_LATENCIES], g.plots[_NUM_LATENCIES:])
                for g in _grouped(scenarios, trials, _timelines, order)
            ],
        ),
        _agreement(run, scenarios, trials, comparison, order),
        report_agreement.text((t.variant, t.result.trial.scenario, t.said) for t in trials),
        *(section(run, order) for section in extras.offered("section", recipe.options, recipe.loads)),
        Section(
            "The same question before",
            "Output tok/s of the runs in the log that asked this of this model on this host; a triangle "
            f"marks a loss of over {curves.REGRESSION:.0%} against the run before. `just history` has each "
            "label's series, where they changed and what else did.",
            plots=[
                plots.history(f"{s}: output tok/s by run", past.dates, found, order)
                for s in scenarios
                if len(past.facts) > 1 and (found := history.curves(past, s))
            ],
            lines=history.regressions(past),
        ),
        Section("What they answered", blocks=_answers(trials)),
        Section("Log tails of failures", blocks=failures),
    ]


def _read(run: Path) -> tuple[list[TrialView], list[Block]]:
    trials, failures = [], []
    for path in sorted(run.glob("*/r*/*/trial.json")):
        try:
            result = store.read(path, TrialResult)
            if result.evidence:
                failures.append(Block(f"{result.trial.variant} at {result.trial.scenario}", result.evidence))
            if result.status == "done":
                trials.append(_view(path.parent, result))
        except StoreError:
            continue  # the comparison's notes name it
    return trials, failures


def _view(folder: Path, result: TrialResult) -> TrialView:
    collected = collector.collect(folder / "requests.jsonl")
    said = [r for r in collected.sample() if not r.error and r.text]
    scores = folder / "scores.jsonl"
    return TrialView(
        result=result,
        table=collected.columns,
        samples=store.telemetry(folder),
        scores=list(store.read_lines(scores, Score)) if store.present(scores) else [],
        said=said,
    )


def _each(
    scenarios: Iterable[str], trials: Sequence[TrialView], draw: Draw, order: Sequence[str]
) -> list[str]:
    return [
        plot
        for scenario in scenarios
        if (found := [t for t in trials if t.result.trial.scenario == scenario])
        for plot in draw(scenario, found, order)
    ]


def _grouped(
    scenarios: Iterable[str], trials: Sequence[TrialView], draw: Draw, order: Sequence[str]
) -> list[Group]:
    """The plots of each scenario under its name."""
    return [Group(s, drawn) for s in scenarios if (drawn := _each([s], trials, draw, order))]


def _distributions(scenario: str, trials: list[TrialView], order: Sequence[str]) -> list[str]:
    """CDFs over all restarts of a variant together; where answers came whole, of E2EL only."""
    drawn = []
    whole = {t.variant for t in trials if metrics.summarize(t.table, {}).delivered}
    for field, name in (("ttft_s", "TTFT"), ("tpot_s", "TPOT"), ("e2el_s", "E2EL")):
        found = [
            curves.cdf(variant, np.concatenate([getattr(t.table, field)[t.table.ok] for t in group]))
            for variant, group in _by_variant(trials).items()
            if field == "e2el_s" or variant not in whole
        ]
        drawn.append(_lines(f"{name}, {scenario}", (f"{name} (ms)", "share of requests"), found, order))
    return [plot for plot in drawn if plot]


def _timelines(scenario: str, trials: list[TrialView], order: Sequence[str]) -> list[str]:
    """The first restart of each variant, all on one time axis."""
    first = [group[0] for group in _by_variant(trials).values()]
    panels: list[tuple[str, str, list[Curve | None]]] = [
        (f"{name} over time", f"{name} (ms)", [curves.over_time(t.variant, t.table, field) for t in first])
        for field, name in (("ttft_s", "TTFT"), ("tpot_s", "TPOT"))
    ]
    quiet = [curves.silences(t.variant, t.table) for t in first]
    if any(quiet):
        panels.append(("silences", "s without a chunk", quiet))
    for key, name in _GAUGES:
        found = [curves.gauge(t.variant, t.samples, key) for t in first]
        if key == "running" or any(curve is not None and curve.y.any() for curve in found):
            panels.append((name.partition(" (")[0], name, found))
    panels.append(("power", "W", [curves.power(t.variant, t.samples) for t in first]))
    ends = [float(c.x.max()) for _, _, found in panels for c in found if c is not None and c.x.size]
    until = max(ends, default=0.0)
    drawn = [
        _lines(f"{title}, {scenario}", ("s since start", axis), found, order, until)
        for title, axis, found in panels
    ]
    return [plot for plot in drawn if plot]


def _agreement(
    run: Path,
    scenarios: Iterable[str],
    trials: Sequence[TrialView],
    comparison: Comparison,
    order: Sequence[str],
) -> Section:
    def draw(scenario: str, found: list[TrialView], order: Sequence[str]) -> list[str]:
        lines = [
            curves.margin_by_position(variant, [s for t in group for s in t.scores])
            for variant, group in _by_variant(found).items()
        ]
        plot = _lines(
            f"margin by position, {scenario}", ("output position", "mean margin (nats)"), lines, order
        )
        return [plot] if plot else []

    return report_agreement.statistics(run, comparison, _each(scenarios, trials, draw, order))


def _answers(trials: Sequence[TrialView]) -> list[Block]:
    return [
        Block(f"{t.variant} at {t.result.trial.scenario}, request {r.request_id}", r.text[:_ANSWER_LEN])
        for t in trials
        if t.result.trial.restart == 1
        for r in t.said[:_NUM_ANSWERS]
    ]


def _by_variant(trials: Iterable[TrialView]) -> dict[str, list[TrialView]]:
    groups: dict[str, list[TrialView]] = {}
    for told in trials:
        groups.setdefault(told.variant, []).append(told)
    return groups


def _lines(
    title: str,
    axes: tuple[str, str],
    found: Sequence[Curve | None],
    order: Sequence[str],
    until: float = 0.0,
) -> str:
    """The plot, or "" when there is nothing to draw."""
    known = [curve for curve in found if curve is not None and curve.x.size]
    return plots.lines(title, axes, known, order, until) if known else ""
