"""From a run's trials to what is compared: figures by restart, certified tails, where a plateau holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean

import numpy as np
from msgspec.structs import replace

from harness.numbers import intervals, metrics, tails
from harness.numbers.columns import Floats
from harness.numbers.figures import Figure, Seen, figures, ranking
from harness.numbers.measured import Measured
from harness.numbers.verdicts import Sample
from harness.schema import Load, Ranked, Recipe, Row, Tail, Within, scenario

Groups = Mapping[tuple[str, str], Sequence[Measured]]
"""(variant, scenario) -> its trials."""
Rates = Mapping[tuple[str, str], Mapping[int, float]]
"""(variant, scenario) -> restart -> what a search found, requests/s."""


def closed(load: Load) -> bool:
    """Whether the next request waits for an answer."""
    return load.arrival == "closed" and not load.request_rate and not load.search


def steady_scenarios(groups: Groups) -> frozenset[str]:
    """Closed loops in which every valid trial has a plateau: their rates leave out the ramps.

    One trial without one, and all of the scenario are rates of the whole window: the two do not compare.
    """
    valid = [t for trials in groups.values() for t in trials if _done(t) and not t.result.invalid]
    able = {t.result.trial.scenario for t in valid if closed(t.result.trial.load)}
    return frozenset(able - {t.result.trial.scenario for t in valid if not has_plateau(t)})


def has_plateau(trial: Measured) -> bool:
    """Its load was up long enough for a rate without ramps, and its tokens came when they were made."""
    m = trial.metrics
    return m is not None and not m.delivered and m.steady_output_throughput is not None


def rate(trial: Measured, steady: bool) -> float:
    """Output tokens/s: of the plateau, or of the whole window."""
    if trial.metrics is None:
        return 0.0
    plateau = trial.metrics.steady_output_throughput if steady else None
    return plateau or trial.metrics.output_throughput


def row_tails(trials: Sequence[Measured], recipe: Recipe) -> tuple[Tail, ...]:
    """What all requests of a row certify: from the send in a closed loop, from the due time else."""
    tables = [t.table for t in trials if t.table is not None]
    if not tables:
        return ()
    due = "" if closed(trials[0].result.trial.load) else "due_"
    delivered = any(t.metrics is not None and t.metrics.delivered for t in trials)
    names = (f"{due}e2el",) if delivered else (f"{due}ttft", "tpot", f"{due}e2el")
    found = []
    for name in names:
        restarts: list[Floats] = []
        for table in tables:
            order = np.argsort(table.sent_at_s, kind="stable")
            restarts.append(getattr(table, f"{name}_s")[order][table.ok[order]])
        found.append(tails.tail(name, restarts, recipe.options.percentile / 100.0))
    return tuple(tail for tail in found if tail)


def ranked_by(row: Row, trials: Sequence[Measured], recipe: Recipe, rates: Rates) -> tuple[Ranked, ...]:
    """What decides the rank of a row whose load fixes its throughput; () where the throughput does."""
    done = [t for t in trials if _done(t)]
    if not done:
        return ()
    found = []
    for figure in ranking(done[0].result.trial.load, bool(recipe.slo)):
        values = [v for t in done if (v := figure.value(_seen(t, row, False, rates))) is not None]
        if values:
            found.append(
                Ranked(title=figure.title, value=fmean(values), lower_is_better=figure.lower_is_better)
            )
    return tuple(found)


def within(trials: Sequence[Measured], recipe: Recipe) -> Within | None:
    """How many of a row's requests met every limit of the SLO at once; None without one."""
    tables = [t.table for t in trials if t.table is not None]
    if not recipe.slo or not tables:
        return None
    met = [metrics.meets(table, recipe.slo)[np.argsort(table.sent_at_s, kind="stable")] for table in tables]
    return tails.within(met, recipe.options.slo_share)


def samples(groups: Groups, rows: Sequence[Row], recipe: Recipe, rates: Rates) -> list[Sample]:
    """Every figure of every ranked row, by restart."""
    steady = steady_scenarios(groups)
    ranked = [row for row in rows if row.rankable]
    found = []
    for row in ranked:
        trials = [t for t in groups[row.variant, row.scenario] if _done(t)]
        load = trials[0].result.trial.load
        for figure in figures(load, bool(recipe.slo), _shared_tails(ranked, row.scenario)):
            values = {}
            for trial in trials:
                seen = _seen(trial, row, row.scenario in steady, rates)
                if (value := figure.value(seen)) is not None:
                    values[trial.result.trial.restart] = value
            found.append(Sample(row.scenario, row.variant, _titled(figure, row), values))
    return found


def sampling_costs(groups: Groups, recipe: Recipe) -> Iterator[str]:
    """What sampling leaves of greedy speed: a variant's pairs of scenarios that differ in nothing else."""
    for variant in recipe.variants:
        for workload, load in recipe.offered:
            greedy = replace(workload, sampling=None)
            if workload.sampling is None or (greedy, load) not in recipe.offered:
                continue
            pair = [_by_restart(groups, variant, scenario(one, load)) for one in (workload, greedy)]
            both = sorted(pair[0].keys() & pair[1].keys())
            ratio = intervals.ratio(*([found[r] for r in both] for found in pair)) if both else None
            if ratio:
                sure = f" ({ratio.low:.3f} to {ratio.high:.3f})" if ratio.num > 1 else ", one restart"
                yield (
                    f"{variant}, sampled ({workload.sampling.label}) over greedy output tok/s at "
                    f"{scenario(greedy, load)}: {ratio.mean:.3f}{sure}"
                )


def _by_restart(groups: Groups, variant: str, name: str) -> dict[int, float]:
    """Restart -> output tokens/s of the whole window."""
    valid = [t for t in groups.get((variant, name), ()) if _done(t) and not t.result.invalid]
    return {t.result.trial.restart: rate(t, steady=False) for t in valid}


def _seen(trial: Measured, row: Row, steady: bool, rates: Rates) -> Seen:
    assert trial.metrics is not None  # a trial without metrics is not done
    restart = trial.result.trial.restart
    found = rates.get((row.variant, row.scenario), {}).get(restart)
    return Seen(trial.metrics, row.num_gpus, steady, trial.energy, found)


def _titled(figure: Figure, row: Row) -> Figure:
    return figure if row.num_gpus else figure._replace(title=figure.title.removesuffix(" per GPU"))


def _shared_tails(rows: Iterable[Row], scenario: str) -> dict[str, float]:
    """Highest percentile that every ranked row of a scenario certifies, by latency."""
    shares: dict[str, float] = {}
    for tail in (tail for row in rows if row.scenario == scenario for tail in row.tails):
        shares[tail.metric] = min(tail.share, shares.get(tail.metric, 1.0))
    return shares


def _done(trial: Measured) -> bool:
    return trial.result.status == "done" and trial.metrics is not None
