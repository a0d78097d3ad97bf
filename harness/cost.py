"""The line before a run: how many trials, about how long, and what difference it will be able to see."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import NamedTuple

from harness import store
from harness.errors import HarnessError
from harness.host import environment
from harness.numbers import figures, power, stopping
from harness.planned import Planned
from harness.schema import Calibration, Comparison, Environment, Recipe, TrialResult, scenario

_RUNS = 20
"""Latest runs that are asked."""


class _Past(NamedTuple):
    """What earlier runs took and showed."""

    around_s: dict[str, float]
    """Variant -> seconds of a server life outside its timed parts."""
    per_prompt_s: dict[tuple[str, str], float]
    """(variant, scenario) -> seconds of a timed part per request."""
    spreads: list[float]
    """Of throughput between restarts, of these variants."""


def line(recipe: Recipe, planned: Iterable[Planned]) -> str:
    """One sentence or two; says where its figures come from."""
    chosen = [p for p in planned if not p.skip]
    restarts = recipe.repeats or stopping.MIN_RESTARTS
    trials = sum(not t.skip for p in chosen for t in p.trials)
    past = _past({p.variant.name for p in chosen})
    lives = restarts * len(chosen)
    auto = "" if recipe.repeats else " at the least (repeats=auto)"
    num = f"{restarts * trials} trials in {lives} server lives{auto}"
    return f"{num}, {_minutes(chosen, past, restarts)}; {_sees(recipe, chosen, past, restarts)}"


def _minutes(chosen: list[Planned], past: _Past, restarts: int) -> str:
    total, unknown = 0.0, 0
    for planned in chosen:
        name = planned.variant.name
        known = [past.around_s.get(name)]
        for trial in (t for t in planned.trials if not t.skip):
            per_prompt = past.per_prompt_s.get((name, scenario(trial.workload, trial.load)))
            known.append(None if per_prompt is None else per_prompt * trial.workload.num_prompts)
        unknown += restarts * (known.count(None) - (known[0] is None))
        total += restarts * sum(k for k in known if k is not None)
    if not total:
        return "no earlier run on this host tells how long"
    shown = f"{total / 60:.0f} minutes" if total >= 90 else f"{total:.0f} s"
    lacking = f" without {unknown} trials that none had" if unknown else ""
    return f"about {shown} by earlier runs on this host{lacking}"


def _sees(recipe: Recipe, chosen: list[Planned], past: _Past, restarts: int) -> str:
    if len(chosen) < 2:
        return "one variant: nothing is compared"
    if restarts < 2:
        return "one restart has no interval and decides nothing: repeats=3 would"
    loads = [load for _, load in recipe.offered]
    rivals = len(chosen) - 1
    family = rivals * sum(
        sum(f.primary for f in figures.figures(load, bool(recipe.slo), {})) for load in loads
    )
    sd = median(past.spreads) if past.spreads else power.TYPICAL_SPREAD
    ratio = power.detectable(restarts, rivals * len(loads), family, sd)
    why = (
        "as earlier runs here show" if past.spreads else "nothing earlier says how much: taken from H200 runs"
    )
    return (
        f"a difference of {(ratio or 1.0) - 1.0:.0%} would be seen four times in five if restarts differ by "
        f"{sd:.1%} ({why})"
    )


def _past(variants: set[str]) -> _Past:
    around: dict[str, float] = {}
    per_prompt: dict[tuple[str, str], float] = {}
    spreads: list[float] = []
    for run in _runs():
        for visit in sorted(run.glob("*/r*/calibration.json")):
            if visit.parent.parent.name in variants:
                with contextlib.suppress(HarnessError, ValueError):
                    _learn(visit.parent, around, per_prompt)
        with contextlib.suppress(HarnessError):
            spreads += _spreads(store.read(run / "comparison.json", Comparison), variants)
    return _Past(around, per_prompt, spreads)


def _runs() -> list[Path]:
    """Of this host, oldest first, so that the latest word stands."""
    found = [p.parent for p in store.results_root().glob("*/comparison.json") if _here(p.parent)]
    return sorted(found, key=lambda run: (run / "comparison.json").stat().st_mtime)[-_RUNS:]


def _here(run: Path) -> bool:
    with contextlib.suppress(HarnessError):
        return store.read(run / "environment.json", Environment).hostname_hash == environment.hostname_hash()
    return False


def _learn(visit: Path, around: dict[str, float], per_prompt: dict[tuple[str, str], float]) -> None:
    """What one server life took, from its calibration to the end of its last trial."""
    done = [store.read(path, TrialResult) for path in visit.glob("*/trial.json")]
    done = [result for result in done if result.status == "done" and result.started_at]
    if not done:
        return
    begun = datetime.fromisoformat(store.read(visit / "calibration.json", Calibration).taken_at)
    ends = [datetime.fromisoformat(r.started_at).timestamp() + r.duration_s for r in done]
    around[visit.parent.name] = max(ends) - begun.timestamp() - sum(r.duration_s for r in done)
    for r in done:
        per_prompt[r.trial.variant, r.trial.scenario] = r.duration_s / max(1, r.trial.workload.num_prompts)


def _spreads(comparison: Comparison, variants: set[str]) -> Iterator[float]:
    for row in comparison.rows:
        rate = row.output_throughput
        if rate is not None and row.variant in variants:
            found = power.spread_of(rate.low, rate.mean, rate.high, rate.num)
            if found:
                yield found
