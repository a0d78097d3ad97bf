"""search=goodput: one trial that is several, at rates that close in on the largest one that meets the SLO.

Every probe fires the same requests, faster or slower. The trial's own files are those of the probe at the
rate that was found; the others lie in probes/. search.json says what was tried.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from harness import client, store
from harness.errors import HarnessError, InputError, MachineError
from harness.host import environment
from harness.numbers import collector, load_search, metrics
from harness.numbers.columns import columns
from harness.numbers.load_search import SearchResult
from harness.schema import Load, Recipe, RequestRecord, Trial, TrialResult, WorkloadSpec
from harness.server import Running
from harness.trial import Visit, asked, built, save_sample, spoken, target_of, timed_part, warm_up

_ARRIVALS = ("closed", "constant", "poisson", "gamma")
_FILES = ("requests.jsonl", "telemetry.jsonl", "workload.json")
_START_SHARE = 0.7
"""Of the rate that the engine gives when flooded: no open loop can hold more than all of it."""
_ALONE = 5
"""Requests that go out one at a time before rates are tried."""
_OTHER_SEED = 104_729
"""Distance of the seeds of the flood, and of probes on an engine that only a new start empties."""


def check(recipe: Recipe) -> None:
    """Raises InputError for a search without limits or without one rate."""
    searches = [load for load in recipe.loads if load.search]
    if searches and not recipe.slo:
        raise InputError(
            "search=goodput needs a limit to meet: give slo.ttft_s=SECONDS or slo.tpot_s=SECONDS"
        )
    for load in searches:
        if load.arrival not in _ARRIVALS:
            raise InputError(f"search=goodput looks for one rate, and arrival={load.arrival} has several")
    share = load_search.plan_of(recipe, 1.0).attained_share
    if not 0 < share <= 1:
        raise InputError(f"slo_share={share:g} is not a share of requests: give a number above 0, at most 1")


class Search:
    """One search on one running engine."""

    def __init__(self, visit: Visit, trial: Trial, running: Running) -> None:
        self.visit, self.trial, self.running = visit, trial, running
        self.folder = store.trial_folder(visit.run, trial)
        self.target = target_of(visit, running)
        self.here = msgspec.structs.replace(self.target, place=())
        """Without processes elsewhere: one request at a time would not feed them."""
        self.outcomes: dict[float, TrialResult] = {}
        self.keeps_prompts = visit.planned.one_scenario_per_launch

    def begin(self) -> float:
        """Warm up; the rate to begin with, requests/s."""
        visit, trial = self.visit, self.trial
        visit.progress.stage(f"{trial.variant} {trial.scenario}: warm-up")
        warm_up(visit, trial, self.running, self.target)
        if trial.load.request_rate:
            return trial.load.request_rate
        load = Load(max_concurrency=trial.load.max_concurrency or load_search.FLOOD)
        requests, _ = built(self._reseeded(1), load, visit.planned.tokenizer, 0)
        stats = client.fire(self.here, spoken(visit, self.running, requests), load, lambda record: None)
        return _START_SHARE * len(requests) / stats.duration_s

    def hopeless(self) -> str:
        """Why no rate can meet the SLO: requests one at a time miss it; "" when they meet it."""
        spec = msgspec.structs.replace(self._reseeded(2), num_prompts=_ALONE)
        load = Load(max_concurrency=1)
        alone, _ = built(spec, load, self.visit.planned.tokenizer, 0)
        records: list[RequestRecord] = []
        client.fire(self.here, spoken(self.visit, self.running, alone), load, records.append)
        share = metrics.attained(columns(records), self.visit.recipe.slo)
        return "" if share >= 0.5 else "even one request at a time does not meet it"

    def _reseeded(self, number: int) -> WorkloadSpec:
        spec = self.trial.workload
        return msgspec.structs.replace(spec, seed=spec.seed + number * _OTHER_SEED)

    def probe(self, rate: float) -> float:
        """The share of requests that met the SLO at this rate. Raises MachineError when the engine died."""
        seen_before = self.keeps_prompts
        spec = self._reseeded(len(self.outcomes) + 3) if seen_before else self.trial.workload
        return self.fire(rate, spec)

    def fire(self, rate: float, spec: WorkloadSpec) -> float:
        """One timed part, put aside; the share of its requests that met the SLO."""
        visit = self.visit
        load = msgspec.structs.replace(self.trial.load, request_rate=rate)
        trial = msgspec.structs.replace(self.trial, load=load)
        sampled = asked(visit.recipe)
        timed, proof = built(spec, load, visit.planned.tokenizer, *sampled)
        store.write(self.folder / "workload.json", proof)
        if spec == self.trial.workload:
            save_sample(visit.run, trial, timed)
        visit.progress.trial_begin(trial, len(timed))
        outcome = self.outcomes[rate] = timed_part(visit, trial, self.running, (self.target, timed))
        if self.running.dead():
            raise MachineError(outcome.reason, details=outcome.evidence)
        collected = collector.collect(self.folder / "requests.jsonl")
        share = metrics.attained(collected.columns, visit.recipe.slo)
        name = f"{trial.variant} {trial.scenario}"
        visit.progress.note(f"  {name}: {share:.1%} within the SLO at {rate:.4g} requests/s")
        _move(self.folder, self.place(rate))
        return share

    def place(self, rate: float) -> Path:
        """Folder of one probe."""
        return self.folder / "probes" / f"{rate:.6g}rps"

    def conclude(self, found: SearchResult) -> TrialResult:
        """The outcome at the found rate, its files where a trial has them."""
        rate = found.rate or min(p.rate for p in found.probes)
        notes = [load_search.words(found, self.visit.recipe)]
        for tried, outcome in self.outcomes.items():
            if "client-bound" in outcome.invalid:
                notes.append(f"at {tried:.4g} requests/s: {outcome.invalid}")
        if self.keeps_prompts:
            share = self.fire(rate, self.trial.workload)
            notes.append(f"measured again at {rate:.4g} requests/s with the run's own prompts: {share:.1%}")
        _move(self.place(rate), self.folder)
        outcome = self.outcomes[rate]
        return msgspec.structs.replace(outcome, notes=(*outcome.notes, *notes))


def _move(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        if (source / name).exists():
            (source / name).replace(target / name)


def measure(visit: Visit, trial: Trial, running: Running) -> None:
    """Search, keep every probe. Ctrl-C marks the trial interrupted and is raised again."""
    outcome = TrialResult(
        trial=trial, status="interrupted", reason="stopped by the user", started_at=environment.now()
    )
    found = Search(visit, trial, running)
    found.folder.mkdir(parents=True, exist_ok=True)
    try:
        plan = load_search.plan_of(visit.recipe, found.begin())
        if why := found.hopeless():
            plan = msgspec.structs.replace(plan, max_trials=1)
        result = load_search.search(found.probe, plan)
        if why and not result.rate:
            result = msgspec.structs.replace(result, reason=why)
        store.write(found.folder / "search.json", result)
        outcome = found.conclude(result)
    except HarnessError as error:
        outcome = TrialResult(trial=trial, status="failed", reason=error.message, evidence=error.details)
        if not isinstance(error, MachineError):
            raise
    finally:
        visit.finish(trial, outcome)
