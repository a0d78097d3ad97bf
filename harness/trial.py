"""One trial: the same requests at the same times, fired at one running engine, every record kept."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import requests as http

from harness import client, extras, models, registry, store, workload
from harness.client import acceptance
from harness.client.body import authorization
from harness.errors import HarnessError, InputError
from harness.host import environment, telemetry
from harness.numbers import collector, token_counts, validity, warmup
from harness.planned import Planned
from harness.progress import Progress
from harness.schema import (
    MAX_TOP,
    Effective,
    Evidence,
    Load,
    Recipe,
    Request,
    RequestRecord,
    Sampler,
    Trial,
    TrialResult,
    Workload,
    WorkloadSpec,
)
from harness.server import Running, failure
from harness.tokens import Vocabulary

_WARM_SEED = 7919
"""Added to the seed of warm-up requests, so that none shares a prefix with a timed one."""
_WARM_TOKENS = 32
_ASK_S = 30.0
"""Longest an engine that is not busy may take to answer about itself."""
COUNTERS = (
    *("prompt_tokens", "generation_tokens", "prefix_cache_hits", "prefix_cache_queries", "preemptions"),
    *("drafts", "draft_tokens", "accepted_tokens", "verifications"),
)
"""Canonical names of the engines' counters whose change over a timed part is kept; so is accepted_at_0 ..."""


@dataclass(frozen=True)
class Visit:
    """A planned variant in one restart of a run, in one or more engine lives: a trial's surroundings."""

    recipe: Recipe
    run: Path
    planned: Planned
    restart: int
    progress: Progress
    replay: Callable[[Running], None] = lambda running: None
    """After the timed parts: what a server that is the reference itself may score before it stops."""

    @property
    def folder(self) -> Path:
        """Where what its engine shows is kept, and beside it its trials."""
        return store.visit_folder(self.run, self.planned.variant.name, self.restart)

    def extras(self, hook: str) -> tuple[Callable[..., Any], ...]:
        """What the optional features of this recipe and variant offer under that name."""
        return extras.offered(hook, self.recipe.options, self.recipe.loads, self.planned.variant)

    def effective(self, evidence: Evidence) -> Effective:
        """What the engine shows it runs."""
        parsed: Effective = registry.engine(self.planned.variant.engine).effective(evidence)
        return parsed

    def result_of(self, trial: Trial) -> TrialResult | None:
        """The trial's result, when it has one."""
        path = store.trial_folder(self.run, trial) / "trial.json"
        return store.read(path, TrialResult) if path.exists() else None

    def finish(self, trial: Trial, result: TrialResult) -> None:
        """Write trial.json; from now on the trial is not repeated unless it was interrupted."""
        store.write(store.trial_folder(self.run, trial) / "trial.json", result)
        self.progress.trial_end(result)

    def pending(self) -> list[Trial]:
        """Trials of this restart still to be run. Those that cannot be held are recorded as skipped."""
        left = []
        for planned in self.planned.trials:
            trial = self.planned.trial(planned, self.restart)
            result = self.result_of(trial)
            if result and result.status in ("done", "failed"):
                continue
            skip = self.planned.skip or planned.skip
            if skip:
                self.finish(trial, TrialResult(trial=trial, status="skipped", reason=skip))
            else:
                left.append(trial)
        return left


@dataclass(frozen=True)
class Course:
    """All variants of a run, before it is known which of them is visited when."""

    recipe: Recipe
    run: Path
    planned: tuple[Planned, ...]
    progress: Progress
    oracle: Planned | None
    ready: Callable[[tuple[Planned, ...]], tuple[Planned, ...]]
    """Makes their environments and asks their parsers; those that cannot run come back skipped."""
    replay: Callable[[Running], None]

    def visit(self, planned: Planned, restart: int) -> Visit:
        """One of them."""
        return Visit(self.recipe, self.run, planned, restart, self.progress, self.replay)


def asked(recipe: Recipe) -> tuple[int, int]:
    """(requests per trial whose logprobs are asked for, alternatives per token). Raises InputError."""
    num = recipe.options.top_logprobs
    if not 0 <= num <= MAX_TOP:
        raise InputError(
            f"top_logprobs={num} is not a number of alternatives; give 0 (none) to {MAX_TOP}, "
            "the most that every engine grants."
        )
    return recipe.verify_requests, num


def measure(visit: Visit, trial: Trial, running: Running) -> None:
    """Warm up, fire, keep everything. Ctrl-C marks the trial interrupted and is raised again."""
    folder = store.trial_folder(visit.run, trial)
    model_folder = visit.planned.tokenizer
    timed, proof = built(trial.workload, trial.load, model_folder, *asked(visit.recipe))
    store.write(folder / "workload.json", proof)
    save_sample(visit.run, trial, timed)
    target = target_of(visit, running)
    visit.progress.stage(f"{trial.variant} {trial.scenario}: warm-up")
    warm_up(visit, trial, running, target)
    visit.progress.trial_begin(trial, len(timed))
    outcome = interrupted = TrialResult(
        trial=trial, status="interrupted", reason="stopped by the user", started_at=environment.now()
    )
    try:
        outcome = timed_part(visit, trial, running, (target, timed))
        cold = unproven_warmth(visit, trial, running, outcome)
        if cold and visit.planned.one_scenario_per_launch:
            note = f"not warm: {cold}; not measured once more, for its cache would know the prompts"
            outcome = msgspec.structs.replace(outcome, notes=(*outcome.notes, note))
        elif cold:
            visit.progress.note(f"{trial.variant} {trial.scenario}: {cold}; measured once more")
            outcome = interrupted
            outcome = again(visit, trial, running, (target, timed), cold)
    except HarnessError as error:
        outcome = TrialResult(trial=trial, status="failed", reason=error.message, evidence=error.details)
        raise
    finally:
        visit.finish(trial, outcome)


def again(
    visit: Visit, trial: Trial, running: Running, work: tuple[client.Target, tuple[Request, ...]], cold: str
) -> TrialResult:
    """The second and last measurement of a trial that was not warm; the first is kept beside it."""
    folder = store.trial_folder(visit.run, trial)
    (folder / "requests.jsonl").replace(folder / "requests.cold.jsonl")
    visit.progress.trial_begin(trial, len(work[1]))
    outcome = timed_part(visit, trial, running, work)
    notes = [f"a first measurement was discarded: {cold}"]
    still = unproven_warmth(visit, trial, running, outcome)
    if still:
        notes.append(f"not warm in the second measurement either: {still}")
    return msgspec.structs.replace(outcome, notes=(*outcome.notes, *notes))


def unproven_warmth(visit: Visit, trial: Trial, running: Running, outcome: TrialResult) -> str:
    """Why a finished timed part was not warm, "" when nothing shows it."""
    if outcome.status != "done":
        return ""
    found = collector.collect(store.trial_folder(visit.run, trial) / "requests.jsonl")
    return warmup.cold(found.columns, found.sample())


def timed_part(
    visit: Visit, trial: Trial, running: Running, work: tuple[client.Target, tuple[Request, ...]]
) -> TrialResult:
    """Fire once, with telemetry beside; how it ended and whether its numbers count."""
    folder = store.trial_folder(visit.run, trial)
    if dead := running.dead():
        begun = TrialResult(trial=trial, status="failed", started_at=environment.now())
        return _failed(running, begun, f"died before {trial.scenario} began ({dead})")
    target, timed = work
    worded = spoken(visit, running, timed)
    flush(visit, running)
    before = counters(visit, running)
    running.new_log_lines()
    sampler = telemetry.sampling(
        folder / "telemetry.jsonl",
        visit.planned.variant.engine,
        running.launch.metrics_url,
        running.launch.api_key_env,
    )
    with store.RecordWriter(folder / "requests.jsonl") as write, sampler:
        started = environment.now()
        stats = _fire(visit, target, worded, trial, write)
    after = counters(visit, running)
    compiled = warmup.compiled(running.new_log_lines())
    if visit.planned.exact:
        count_tokens(folder / "requests.jsonl", visit.planned.tokenizer)
    outcome = TrialResult(
        trial=trial,
        status="done",
        started_at=started,
        duration_s=stats.duration_s,
        client_cpu_s=stats.cpu_s,
        counters=grown(before, after),
        notes=(*running.accepted.notes, *filter(None, (compiled, _assumed(visit)))),
    )
    return judged(visit, running, outcome, (timed, stats))


def grown(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Growth of the counters that are kept. One that began to exist in between, as labels do, began at 0."""
    kept = [name for name in after if name in COUNTERS or name.startswith("accepted_at_")]
    return {name: after[name] - before.get(name, 0.0) for name in kept} if before else {}


def _assumed(visit: Visit) -> str:
    """What is taken for granted of a server that somebody else runs."""
    planned = visit.planned
    given = visit.recipe.model or planned.variant.model
    return "" if planned.own_server else models.assumed(planned.model, given)


def _fire(
    visit: Visit, target: client.Target, timed: tuple[Request, ...], trial: Trial, write: store.RecordWriter
) -> client.ClientStats:
    def keep(record: RequestRecord) -> None:
        write(record)
        visit.progress.record(record)

    return client.fire(target, timed, trial.load, keep, client.Watch(on_pulse=visit.progress.pulse))


def count_tokens(path: Path, model_folder: str) -> None:
    """Count the output of records without usage and ids: encoding takes time, so after the timed part."""
    if not any(token_counts.uncounted(r) for r in store.read_lines(path, RequestRecord)):
        return
    vocabulary = Vocabulary(model_folder)
    partial = path.with_name(f"{path.name}.partial")
    with store.RecordWriter(partial) as write:
        for record in store.read_lines(path, RequestRecord):
            write(token_counts.filled(record, vocabulary))
    partial.replace(path)


def built(
    spec: WorkloadSpec, load: Load, model_folder: str, num_verify: int, num_top: int = 0
) -> tuple[tuple[Request, ...], Workload]:
    """Requests and their proof: the same objects for every engine of a run. Raises InputError."""
    return _built(msgspec.json.encode(spec), msgspec.json.encode(load), model_folder, num_verify, num_top)


@lru_cache(maxsize=16)
def _built(
    spec: bytes, load: bytes, model_folder: str, num_verify: int, num_top: int
) -> tuple[tuple[Request, ...], Workload]:
    timed, proof = workload.build(
        msgspec.json.decode(spec, type=WorkloadSpec),
        msgspec.json.decode(load, type=Load),
        Vocabulary(model_folder),
        num_verify=num_verify,
    )
    if num_top:
        timed = tuple(msgspec.structs.replace(r, top_logprobs=num_top) if r.logprobs else r for r in timed)
    return timed, proof


def spoken(visit: Visit, running: Running, timed: tuple[Request, ...]) -> tuple[Request, ...]:
    """The requests as this server takes them: prompts as text or chat where it takes no token ids.

    Unless the user asked for text, our count of its tokens is then no length to hold the usage against.
    """
    accepted = running.accepted
    worded = workload.worded(timed, accepted.prompts, Vocabulary(visit.planned.tokenizer))
    if visit.planned.exact and not accepted.refused:
        return worded
    return tuple(msgspec.structs.replace(r, prompt_len=0) for r in worded)


def save_sample(run: Path, trial: Trial, timed: tuple[Request, ...]) -> None:
    """Keep the prompts of the verified sample once per run, so that later replays need no regeneration."""
    path = store.sample_path(run, store.trial_folder(run, trial).name)
    if not store.present(path):
        with store.RecordWriter(path) as write:
            for request in timed:
                if request.logprobs:
                    write(request)


def target_of(visit: Visit, running: Running) -> client.Target:
    """Where and how the client speaks to this engine."""
    engine, options = registry.engine(visit.planned.variant.engine), visit.recipe.options
    target = client.Target(
        base_url=running.launch.base_url,
        model=running.launch.served_model_name,
        timeout_s=visit.recipe.request_timeout_s,
        extras=dict(getattr(engine, "EXTRAS", {})),
        sampler=getattr(engine, "SAMPLER", Sampler()),
        stream=options.stream,
        api_key_env=running.launch.api_key_env,
        num_workers=options.workers,
        place=tuple(shlex.split(options.place)),
        place_wait_s=options.place_wait_s,
        share_folder=str(visit.run),
    )
    return acceptance.applied(target, running.accepted)


def warm_up(visit: Visit, trial: Trial, running: Running, target: client.Target) -> None:
    """Requests of the trial's own input length, other tokens, at its concurrency; nothing is kept."""
    concurrency = min(trial.load.max_concurrency or visit.recipe.warmup, 64)
    num = max(visit.recipe.warmup, concurrency) if visit.recipe.warmup else 0
    if not num:
        return
    spec = msgspec.structs.replace(trial.workload, num_prompts=num, seed=trial.workload.seed + _WARM_SEED)
    load = Load(max_concurrency=concurrency)
    warm, _ = built(spec, load, visit.planned.tokenizer, 0)
    short = [
        msgspec.structs.replace(r, max_tokens=min(r.max_tokens, _WARM_TOKENS), think_s=0.0) for r in warm
    ]
    here = msgspec.structs.replace(target, place=())
    client.fire(here, spoken(visit, running, tuple(short)), load, lambda record: None)


def flush(visit: Visit, running: Running) -> None:
    """Empty the engine's prefix cache where it offers that; hits that follow still invalidate the row."""
    call = getattr(registry.engine(visit.planned.variant.engine), "flush", lambda: None)()
    if call:
        method, path = call
        try:
            key, url = authorization(running.launch.api_key_env), running.launch.base_url + path
            http.request(method, url, headers=key, timeout=_ASK_S).raise_for_status()
        except http.RequestException as error:
            visit.progress.note(f"{running.launch.variant}: prefix cache could not be flushed ({error})")


def counters(visit: Visit, running: Running) -> dict[str, float]:
    """The engine's own counters now, canonical names; {} where it has none."""
    launch = running.launch
    return telemetry.counters(visit.planned.variant.engine, launch.metrics_url, _ASK_S, launch.api_key_env)


def judged(
    visit: Visit,
    running: Running,
    outcome: TrialResult,
    fired: tuple[tuple[Request, ...], client.ClientStats],
) -> TrialResult:
    """The outcome with the reasons why it failed or its numbers would not count, by one pass over them."""
    timed, stats = fired
    seen = validity.Seen(timed, exact=visit.planned.exact)
    for record in store.records(store.trial_folder(visit.run, outcome.trial)):
        seen.add(record)
    if dead := running.dead():
        what = f"died during {outcome.trial.scenario} ({dead}), {seen.num_ok} requests had finished"
        return _failed(running, outcome, what)
    if not seen.num_ok:
        first = seen.first_error or "no request was sent"
        what = (
            f"runs, but all {seen.num} requests of {outcome.trial.scenario} failed, the first with: {first}"
        )
        return _failed(running, outcome, what)
    return msgspec.structs.replace(
        outcome,
        told=seen.sums,
        invalid="; ".join(seen.reasons(outcome, stats)),
        notes=(*outcome.notes, *seen.notes(outcome)),
    )


def _failed(running: Running, outcome: TrialResult, what: str) -> TrialResult:
    reason, evidence = failure(running.launch, running.log_path, what)
    return msgspec.structs.replace(outcome, status="failed", reason=reason, evidence=evidence)
