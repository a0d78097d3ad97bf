"""A run's files against its seal: a sentence for each promise that was not kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import msgspec

from harness import store
from harness.errors import HarnessError, StoreError
from harness.reporting import bundle
from harness.schema import Environment, Launch, Noun, Recipe, TrialResult, Workload
from harness.sealing import commitments
from harness.sealing.nouns import ENGINE_FILES, SEAL_FILE, WEIGHTS_AFTER, EngineFiles, Seal, SealFile

N = TypeVar("N", bound=Noun)
Found = dict[str, TrialResult]
"""Folder of a trial -> how it ended."""


def breaches(run: Path, seal: Seal) -> list[str]:
    """What of the run is not what was sealed. A trial that is not there yet is no breach: missing() says it.

    Raises StoreError for files that cannot be read.
    """
    try:
        recipe = store.read_recipe(run)
    except HarnessError as error:
        return [f"its recipe cannot be read: {error.message}"]
    found = trials(run)
    return [
        *_settings(run, seal, recipe),
        *_launches(run, seal),
        *_work(run, seal, found),
        *_order(seal, found),
    ]


def trials(run: Path) -> Found:
    """Every trial of a run, by its folder."""
    paths = sorted(run.glob("*/r*/*/trial.json"))
    return {p.parent.relative_to(run).as_posix(): store.read(p, TrialResult) for p in paths}


def missing(seal: Seal, found: Found) -> list[str]:
    """Sealed trials without a result, and those that were interrupted."""
    unfinished = [name for name in seal.trials if name not in found]
    return unfinished + [name for name, one in found.items() if one.status == "interrupted"]


def kept(run: Path) -> dict[str, str]:
    """What was measured, and how it was scored: file -> sha256, of trials that ended."""
    ended = {name for name, one in trials(run).items() if one.status in ("done", "failed")}
    paths = [p for p in bundle.files(run) if p.name.startswith(("requests.jsonl", "scores.jsonl"))]
    named = {path.relative_to(run).as_posix(): path for path in paths}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in named.items()
        if name.rpartition("/")[0] in ended
    }


def replaced(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Files that an earlier entry of the run had otherwise, or that are gone since."""
    changed = [name for name in before if name in now and before[name] != now[name]]
    return [
        *(f"{name} was replaced after it was first logged" for name in changed),
        *(f"{name} is gone since it was first logged" for name in before if name not in now),
    ]


def _settings(run: Path, seal: Seal, recipe: Recipe) -> Iterator[str]:
    if commitments.public(recipe) != seal.recipe:
        changed = _changed(commitments.public(recipe), seal.recipe)
        yield f"the recipe is not the one that was sealed ({changed})"
    try:
        salt = store.read(run / SEAL_FILE, SealFile).salt
        if commitments.seeds(recipe, salt) != seal.seeds:
            yield "the seeds are not those that were sealed"
    except StoreError:
        yield f"{SEAL_FILE} is missing or damaged: nothing shows that the seeds are those that were sealed"
    environment = store.read(run / "environment.json", Environment)
    yield from _differing("weights", seal.weights, environment.weights)
    yield from _differing("image", seal.images, environment.image_digests)
    if seal.host != environment.hostname_hash:
        yield f"it was sealed on host {seal.host} and its environment is of {environment.hostname_hash}"
    if seal.commit != environment.harness_commit:
        commits = seal.commit[:12], environment.harness_commit[:12]
        yield "it was sealed at commit {}, its environment is of {}".format(*commits)
    after = run / WEIGHTS_AFTER
    if after.exists():
        now = msgspec.json.decode(after.read_bytes(), type=dict[str, str])
        yield from _differing("weights (when the last engine had stopped)", seal.weights, now)


def _changed(now: Recipe, then: Recipe) -> str:
    names = [name for name in Recipe.__struct_fields__ if getattr(now, name) != getattr(then, name)]
    return ", ".join(names)


def _differing(what: str, then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            yield f"{what} {name}: sealed {_short(then.get(name))}, now {_short(now.get(name))}"


def _short(digest: str | None) -> str:
    return digest[:16] if digest else "none"


def _launches(run: Path, seal: Seal) -> Iterator[str]:
    for path in sorted(run.glob("*/r*/launch.json")):
        launch, where = store.read(path, Launch), path.parent.relative_to(run).as_posix()
        if commitments.launched(launch, run.name) != seal.launches.get(launch.variant):
            yield f"{where}: the engine was launched otherwise than sealed"
        files = path.parent / ENGINE_FILES
        if files.exists():
            digest = store.read(files, EngineFiles).sha256
            if digest != seal.engines.get(launch.variant):
                yield f"{where}: the installed engine is not the one that was sealed"


def _work(run: Path, seal: Seal, found: Found) -> Iterator[str]:
    for name, result in found.items():
        trial = result.trial
        if name != f"{trial.variant}/r{trial.restart}/{trial.folder}":
            yield f"{name}: its trial.json is of {trial.variant} restart {trial.restart} at {trial.scenario}"
        if seal.trials and name not in seal.trials:
            yield f"{name}: was not sealed"
        path = run / name / "workload.json"
        if result.status != "done" or not path.exists():
            continue
        work = store.read(path, Workload)
        if work.sha256 != seal.workloads.get(trial.scenario):
            yield f"{name}: its requests are not those that were sealed"
        num = sum(1 for _ in store.lines(run / name / "requests.jsonl"))
        if num != work.num_requests and not trial.load.duration_s and not trial.load.search:
            yield f"{name}: {num} records of {work.num_requests} requests"


def _order(seal: Seal, found: Found) -> Iterator[str]:
    """Trials began after the seal, restarts in their order."""
    began: dict[str, list[tuple[int, str, str]]] = {}
    for name, result in found.items():
        if result.started_at:
            began.setdefault(result.trial.variant, []).append((result.trial.restart, result.started_at, name))
            if result.started_at < seal.sealed_at:
                yield f"{name}: began at {result.started_at}, before the seal of {seal.sealed_at}"
    for visits in began.values():
        for (one, then, _), (other, now, name) in pairwise(sorted(visits)):
            if other > one and now < then:
                yield f"{name}: restart {other} began before restart {one}"
