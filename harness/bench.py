"""The spine: recipe -> plan -> visits of engines -> comparison -> report and log."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from msgspec.structs import replace

from harness import compare, cost, extras, launchers, models, plan, store
from harness.client import selfcheck
from harness.correctness import verification
from harness.errors import InputError, MachineError, StoreError
from harness.host import engines_ready, environment
from harness.label import dialect_check, release
from harness.numbers import load_search, metrics, stopping
from harness.planned import Planned
from harness.progress import Progress
from harness.reporting import publish
from harness.run import carry_out, interruptible, visits
from harness.schema import Comparison, Machine, Recipe
from harness.trial import Course, Visit, asked, built

Order = Callable[[tuple[Planned, ...]], Iterable[tuple[Planned, int]]]
"""Which restarts of which variants are measured, one after the other."""


def bench(
    recipe: Recipe, machine: Machine, run: Path, progress: Progress, order: Order | None = None
) -> Comparison:
    """Everything `bench` does. Ctrl-C keeps what was measured, compares it, and is raised again.

    `order` measures a part of a run that somebody else goes on with: nothing is logged yet. Raises
    HarnessError when nothing can run or results cannot be written.
    """
    planned = plan.plan(recipe, machine)
    plan.refuse(planned)
    engines_ready.refuse_unknown(planned)
    oracle = plan.reference(recipe, machine)
    begin(run, recipe, planned)
    courses = extras.offered("course", recipe.options)
    num = sum(len(p.trials) for p in planned)
    progress.begin(run.name, num if courses else max(recipe.repeats, 1) * num)
    progress.note(f"{num} candidates" if courses else cost.line(recipe, planned))
    for name, warning in ((p.variant.name, w) for p in planned if not p.skip for w in p.warnings):
        progress.note(f"{name}: {warning}")
    interrupted: BaseException | None = None
    try:
        with interruptible():
            ready = functools.partial(made_ready, recipe, machine, run, progress)
            made, oracle = engines_ready.ensure_all(() if courses else planned, oracle, progress.stage)
            planned = planned if courses else ready(made)
            plan.refuse(planned)
            for prepare in extras.offered("prepare", recipe.options, recipe.loads):
                prepare(recipe, progress)
            check_client(recipe, run, progress)
            with contextlib.ExitStack() as around:
                for extra in extras.offered("campaign", recipe.options, recipe.loads):
                    around.enter_context(extra(recipe, run, planned))
                through = functools.partial(verification.replay_through, run, oracle, progress)
                course = Course(recipe, run, planned, progress, oracle, ready, through)
                for visit in courses[0](course) if courses else everyone(course, order):
                    carry_out(visit)
                verification.replay_run(run, oracle, progress)
            progress.stage("packing the records")
            store.pack(run)
    except KeyboardInterrupt as stop:
        interrupted = stop
    except StoreError:
        _refuse_removed(run)
        raise
    _refuse_removed(run)
    comparison = compare.compare(run)
    publish.publish(run, comparison, to_log=order is None)
    if interrupted:
        raise interrupted
    return comparison


def begin(run: Path, recipe: Recipe, planned: tuple[Planned, ...]) -> None:
    """Check weights, workloads, log and attached servers, and write what is known, before anything starts."""
    store.refuse_another(run, recipe)
    publish.check_log()
    if not (run / "recipe.toml").exists():
        for chosen in planned:
            launchers.of(chosen.launch).answering(chosen.launch)
    metrics.check_slo(recipe.slo)
    for check in extras.offered("check", recipe.options, recipe.loads):
        check(recipe)
    used = {p.model.alias: p.model for p in planned if not p.skip and p.own_server}
    if len(used) > 1:
        raise InputError(
            f"The variants would run different models ({', '.join(used)}), whose speeds do not compare; give "
            "model=ALIAS, or a run to each."
        )
    for model in used.values():
        models.check_weights(model)
    for trial in (t for p in planned if not p.skip for t in p.trials if not t.skip):
        built(trial.workload, trial.load, planned[0].tokenizer, *asked(recipe))
    store.write_recipe(run, recipe)
    images = [p.launch.image for p in planned if not p.skip and p.launch.image]
    store.write(run / "environment.json", environment.probe(used.values(), images))


def made_ready(
    recipe: Recipe, machine: Machine, run: Path, progress: Progress, planned: tuple[Planned, ...]
) -> tuple[Planned, ...]:
    """The variants with their environments made and their arguments checked; what cannot run is skipped."""
    able, _ = engines_ready.ensure_all(planned, None, progress.stage)
    for chosen in able:
        engines_ready.keep(chosen, run)
    return check_flags(recipe, able, machine, progress)


def everyone(course: Course, order: Order | None) -> Iterator[Visit]:
    """Each variant in each restart, as often as the recipe says, unless an order is given."""
    restarts = rounds(course.recipe, course.run, course.progress, time.monotonic())
    for chosen, restart in order(course.planned) if order else visits(course.planned, restarts):
        yield course.visit(chosen, restart)


def check_flags(
    recipe: Recipe, planned: tuple[Planned, ...], machine: Machine, progress: Progress
) -> tuple[Planned, ...]:
    """Arguments given by hand, and those of another version, go through that version's own parser.

    A variant whose parser refuses them is skipped, with the flag and the version named, before any
    accelerator is taken. Variants as they are were checked when they were written.
    """
    able = [p for p in planned if not p.skip and p.own_server]
    checked = [p for p in able if recipe.args or release.parse(p.variant.name)]
    if not checked:
        return planned
    progress.stage("checking the arguments with the engines' own parsers")
    try:
        results = dialect_check.check_all([(p.variant, p.launch) for p in checked], machine.images)
    except MachineError as error:
        progress.note(f"arguments were not checked before the launch: {error.message}")
        return planned
    advice = "correct args=" if recipe.args else "this version takes other arguments"
    errors = {r.variant: f"{r.error}; {advice}" for r in results if not r.ok}
    return tuple(replace(p, skip=p.skip or errors.get(p.variant.name, "")) for p in planned)


def check_client(recipe: Recipe, run: Path, progress: Progress) -> None:
    """selfcheck.json: what the client itself adds at each load of the recipe, measured once per run."""
    path = run / "selfcheck.json"
    if path.exists():
        return
    progress.stage("checking the client itself")
    workers = recipe.options.workers
    budgets = [
        selfcheck.run(load.request_rate, load.max_concurrency or load_search.flood(load), workers)
        for load in recipe.loads
    ]
    store.write(path, budgets)
    for budget in budgets:
        progress.note(budget.words)


def rounds(recipe: Recipe, run: Path, progress: Progress, begun: float) -> Iterator[int]:
    """Restart numbers 1, 2 ...: `repeats` of them, or until stopping.enough() where repeats is 0 (auto)."""
    if recipe.repeats:
        yield from range(1, recipe.repeats + 1)
        return
    reason, restart = "", 0
    while not reason:
        restart += 1
        yield restart
        spent_s = time.monotonic() - begun
        reason = stopping.enough(compare.compare(run), restart, spent_s, recipe.options.budget_s)
    progress.note(f"repeats=auto: {reason}")


def _refuse_removed(run: Path) -> None:
    if not (run / "recipe.toml").exists():
        raise StoreError(
            f"{run} was removed or moved while it was measured; what it held is gone: start the run again."
        )
