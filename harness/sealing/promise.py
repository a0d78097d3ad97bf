"""Composing a run's seal, and writing it into the log, when everything is ready and nothing was launched."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from pathlib import Path

import msgspec

from harness import registry, store
from harness.errors import InputError
from harness.host import environment
from harness.planned import Planned
from harness.reporting import log
from harness.schema import Environment, Model, Recipe, scenario
from harness.sealing import commitments, engine_files, signing
from harness.sealing.nouns import SEAL_FILE, Seal, SealFile
from harness.trial import asked, built

_SOURCE = ("harness", "engines", "workloads", "ep_check", "moe_log")


def seal(path: Path, recipe: Recipe, run: Path, planned: Iterable[Planned]) -> SealFile:
    """Appends the seal of a run to the log at `path` and keeps it in the run's folder.

    Raises InputError for a run that was measured before, StoreError when a file cannot be written.
    """
    if any(run.glob("*/r*/*/trial.json")):
        raise InputError(
            f"Run {run.name} holds trials that were measured before it was sealed; seal a new run: leave "
            "run_id= out."
        )
    salt = secrets.token_hex(16)
    made = compose(recipe, run, tuple(planned), salt)
    written: list[str] = []

    def entry(before: str) -> str:
        final = msgspec.structs.replace(made, before=before)
        written[:] = [msgspec.json.encode(final).decode()]
        return log.sealed_text(final.sealed_at, run.name, lines(final), written[0])

    log.append(path, entry)
    kept = SealFile(text=written[0], salt=salt)
    store.write(run / SEAL_FILE, kept)
    return kept


def compose(recipe: Recipe, run: Path, planned: tuple[Planned, ...], salt: str) -> Seal:
    """The seal of what is planned. Weights are read whole: no cache is believed."""
    able = [one for one in planned if not one.skip]
    known = store.read(run / "environment.json", Environment)
    trials = [one.trial(each, r + 1) for one in planned for each in one.trials for r in range(recipe.repeats)]
    return Seal(
        run_id=run.name,
        sealed_at=environment.now(),
        question=recipe.question,
        recipe=commitments.public(recipe),
        matter=commitments.matter(recipe),
        seeds=commitments.seeds(recipe, salt),
        hypotheses=commitments.hypotheses(recipe),
        expectation=recipe.options.hypothesis,
        smallest=recipe.options.smallest,
        trials=tuple(f"{t.variant}/r{t.restart}/{t.folder}" for t in trials),
        workloads=_workloads(recipe, able),
        launches={one.variant.name: commitments.launched(one.launch, run.name) for one in able},
        weights=weights(one.model for one in able if one.own_server),
        engines={one.variant.name: engine_files.of(one).sha256 for one in able if one.own_server},
        images=known.image_digests,
        harness=source(),
        commit=known.harness_commit,
        host=known.hostname_hash,
        signer=signing.fingerprint_of_key(signing.key()),
    )


def _workloads(recipe: Recipe, able: list[Planned]) -> dict[str, str]:
    """Scenario -> hash of its requests, the same for all variants."""
    sampled = asked(recipe)
    held = [trial for one in able for trial in one.trials if not trial.skip]
    return {
        scenario(trial.workload, trial.load): built(trial.workload, trial.load, able[0].tokenizer, *sampled)[
            1
        ].sha256
        for trial in held
    }


def weights(models: Iterable[Model]) -> dict[str, str]:
    """<alias>/<file> -> sha256 of what environment.json lists, read anew."""
    used = {model.alias: model for model in models if model.path}
    return {
        f"{alias}/{path.name}": environment.sha256_file(path)
        for alias, model in used.items()
        for path in environment.weight_paths(model)
    }


def source() -> str:
    """Hash of every file of this harness that measures or judges."""
    total = hashlib.sha256()
    files = [
        p for folder in _SOURCE for p in (registry.ROOT / folder).rglob("*") if p.suffix in (".py", ".toml")
    ]
    for path in sorted(files):
        name = path.relative_to(registry.ROOT).as_posix()
        total.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def lines(made: Seal) -> list[str]:
    """The seal for people."""
    decided = [
        f"{h.scenario}: {', '.join(h.variants)} against {h.baseline} in {h.figure}, {h.better} is better"
        for h in made.hypotheses
    ]
    rule = (
        f"{len(made.trials)} trials" if made.trials else "restarts until intervals are tight (repeats=auto)"
    )
    signer = f"; its bundle is to be signed by {made.signer}" if made.signer else ""
    return [
        f"question: {made.question}",
        f"expected: {made.expectation or 'any difference'}; of interest from {made.smallest:.0%} on",
        *(f"will be decided: {line}" for line in decided or ["nothing: one variant is measured alone"]),
        f"{rule}{signer}",
    ]
