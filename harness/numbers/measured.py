"""One trial as stored: its numbers, and what surrounds them, read from results/<run_id>/."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, TypeVar

from harness import store
from harness.correctness.promises import Conformance
from harness.errors import StoreError
from harness.numbers import collector, energy, metrics, steady
from harness.numbers.collector import Collected
from harness.numbers.columns import Columns
from harness.schema import (
    Attestation,
    Calibration,
    Energy,
    Launch,
    Metrics,
    Noun,
    Recipe,
    Request,
    RequestRecord,
    Score,
    TrialResult,
)
from harness.sealing.nouns import ENGINE_FILES, EngineFiles

N = TypeVar("N", bound=Noun)


class Measured(NamedTuple):
    """One trial as stored."""

    folder: Path
    result: TrialResult
    metrics: Metrics | None
    """None when no request was sent."""
    table: Columns | None
    """All its requests."""
    records: list[RequestRecord]
    """For checks of the output: all of them, or an even sample where there are very many."""
    notes: tuple[str, ...]
    """Defects of the files, a sentence each."""
    energy: Energy | None
    scores: list[Score]
    attestation: Attestation | None
    launch: Launch | None
    conformance: Conformance | None


def load(folder: Path, recipe: Recipe) -> Measured:
    """One trial's files. Raises StoreError for those that cannot be read."""
    requests, scores, visit = folder / "requests.jsonl", folder / "scores.jsonl", folder.parent
    result = store.read(folder / "trial.json", TrialResult)
    collected = collector.collect(requests) if store.present(requests) else None
    launch = _maybe(visit / "launch.json", Launch)
    return Measured(
        folder=folder,
        result=result,
        metrics=metrics.summarize(collected.columns, recipe.slo)
        if collected and collected.summary.num
        else None,
        table=collected.columns if collected else None,
        records=collected.sample() if collected else [],
        notes=(*(_notes(result, collected) if collected else ()), *_patched(visit)),
        energy=_energy(folder, collected, launch),
        scores=list(store.read_lines(scores, Score)) if store.present(scores) else [],
        attestation=_maybe(visit / "attestation.json", Attestation),
        launch=launch,
        conformance=_maybe(visit / "conformance.json", Conformance),
    )


def sampled(trial: Measured) -> list[Request]:
    """The verified requests, in the workload's order; [] where they were not kept."""
    path = store.sample_path(trial.folder.parents[2], trial.folder.name)
    return list(store.read_lines(path, Request)) if store.present(path) else []


def calibrations(run: Path) -> dict[str, Calibration]:
    """What each launch of a run found of its host, by the launch's name; damaged files are left out."""
    found = {}
    for path in sorted(run.glob("*/r*/calibration.json")):
        name = f"{path.parent.parent.name} {path.parent.name}"
        try:
            found[name] = store.read(path, Calibration)
        except StoreError:
            continue
    return found


def _notes(result: TrialResult, collected: Collected) -> tuple[str, ...]:
    table = collected.columns
    found = (steady.saturation(table, result.trial.load), steady.held_back(table))
    return (*collected.notes, *filter(None, found))


def _patched(visit: Path) -> tuple[str, ...]:
    """What of the engine is not what its packages published."""
    found = _maybe(visit / ENGINE_FILES, EngineFiles)
    return (found.remark,) if found and found.remark else ()


def _maybe(path: Path, kind: type[N]) -> N | None:
    return store.read(path, kind) if path.exists() else None


def _energy(folder: Path, collected: Collected | None, launch: Launch | None) -> Energy | None:
    if not collected or not launch or not launch.num_gpus:
        return None
    table = collected.columns
    num_tokens = int(table.output_len[table.ok].sum())
    return energy.energy(store.telemetry(folder), metrics.window(table), launch.num_gpus, num_tokens)
