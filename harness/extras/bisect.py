"""bisect=METRIC: the variants are candidates, good first, bad last; what was seen says who is visited next.

What it finds is read off the stored trials again whenever the run is compared (harness/bisect/search.py).
bisect.json says when each round ended.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness import compare, store
from harness.bisect import evidence, search, words
from harness.bisect.judging import Seen
from harness.correctness import verification
from harness.errors import InputError
from harness.planned import Planned
from harness.reporting.report_html import Section
from harness.schema import Noun, Recipe, Row
from harness.trial import Course, Visit

STEPS = "bisect.json"


class Steps(Noun):
    """bisect.json."""

    steps: tuple[Step, ...]


class Step(Noun):
    """One restart of one version, in the order they were made."""

    variant: str
    round: int
    seconds: float
    """Wall time: environment, start, measurement, stop."""
    showed: str


def check(recipe: Recipe) -> None:
    """Raises InputError for a metric that does not exist, one candidate, or several scenarios."""
    if recipe.options.bisect not in evidence.METRICS:
        raise InputError(
            f"metric={recipe.options.bisect} is nothing that versions are told apart by; there are: "
            f"{', '.join(evidence.METRICS)}."
        )
    if len(recipe.variants) < 2:
        raise InputError("A bisection needs two versions at least; name another good= or bad=.")
    if len(recipe.offered) != 1:
        raise InputError(
            f"A bisection looks at one workload under one load, and this is {len(recipe.offered)}; name one."
        )


def course(course: Course) -> Iterator[Visit]:
    """The visits that the bisection asks for, each once its version's environment is there."""
    recipe, run = course.recipe, course.run
    ready: dict[int, Planned] = {}
    bisection = search.campaign(len(recipe.variants), max(recipe.repeats, 2))
    kept = _steps(run)
    steps: list[Step] = []
    shown: Seen | None = None
    while True:
        try:
            place, number = next(bisection) if shown is None else bisection.send(shown)
        except StopIteration as ended:
            course.progress.note(words.lines(ended.value, recipe.variants, recipe.options.bisect)[0])
            return
        began = time.monotonic()
        if place not in ready:
            (ready[place],) = course.ready((course.planned[place],))
        yield course.visit(ready[place], number)
        shown = _seen(course, place, number)
        if shown is None:
            return
        if len(steps) < len(kept):  # a run that is taken up again: what is stored passes in no time
            steps.append(kept[len(steps)])
            continue
        steps.append(_step(recipe, shown, time.monotonic() - began))
        course.progress.note(f"round {number}: {steps[-1].variant} {steps[-1].showed}")
        store.write(run / STEPS, Steps(steps=tuple(steps)))


def remarks(run: Path, recipe: Recipe, rows: Sequence[Row]) -> tuple[str, ...]:
    """The outcome, read off the stored trials."""
    outcome = evidence.outcome(run, recipe, rows)
    found = words.lines(outcome, recipe.variants, recipe.options.bisect)
    return (*found, *_spent(_steps(run)))


def _steps(run: Path) -> tuple[Step, ...]:
    return store.read(run / STEPS, Steps).steps if (run / STEPS).exists() else ()


def _spent(steps: Sequence[Step]) -> tuple[str, ...]:
    """What it took, in a sentence."""
    if not steps:
        return ()
    seconds, versions = sum(step.seconds for step in steps), len({step.variant for step in steps})
    each = f"{seconds / len(steps):.1f} s each, environments included"
    return (f"{len(steps)} restarts of {versions} versions in {seconds:.0f} s: {each}",)


def _seen(course: Course, place: int, number: int) -> Seen | None:
    """What the restart showed; a verdict asks the reference first."""
    rows: Sequence[Row] = ()
    if course.recipe.options.bisect == "verdict":
        verification.replay_run(course.run, course.oracle, course.progress)
        rows = compare.compare(course.run).rows
    return evidence.seen(course.run, course.recipe, place, number, rows)


def _step(recipe: Recipe, shown: Seen, seconds: float) -> Step:
    return Step(
        variant=recipe.variants[shown.version],
        round=shown.round,
        seconds=round(seconds, 1),
        showed=evidence.text(recipe.options.bisect, shown),
    )


def section(run: Path, order: Sequence[str]) -> Section:
    """Every restart in its order: what it showed, how long it took."""
    steps = _steps(run)
    return Section(
        title="Bisection",
        about=". ".join(_spent(steps)),
        headers=("round", "variant", "showed", "seconds"),
        rows=[(str(s.round), s.variant, s.showed, f"{s.seconds:.1f}") for s in steps],
    )
