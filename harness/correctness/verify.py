"""The verb `verify`: verdicts again, from what a run stored or from the view of another reference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from harness import compare, plan, registry, store
from harness.correctness import verification
from harness.errors import StoreError
from harness.host.machine import probe
from harness.progress import Progress
from harness.schema import Comparison, Score

SCORES = "scores.jsonl"


def run(run_dir: Path, reference: str = "", progress: Progress | None = None) -> Comparison:
    """The comparison of a stored run with verdicts recomputed; throughput is untouched.

    `reference`: variant to replay all verified samples through first; its scores replace the stored ones,
    which are kept as scores.<old reference>.jsonl. One that cannot be reached or dies leaves CANNOT TELL with
    the cause. Raises InputError for an unknown variant or one that cannot score, StoreError for a run without
    samples.
    """
    if reference:
        chosen = msgspec.structs.replace(
            store.read_recipe(run_dir), reference=registry.variant(reference).name
        )
        oracle = plan.reference(chosen, probe())
        if not any(verification.samples_of(run_dir, f) for f in verification.trial_folders(run_dir)):
            raise StoreError(
                f"{run_dir.name} holds no verified sample to replay; rerun it with verify= above 0."
            )
        with Progress() if progress is None else progress as shown, _set_aside(run_dir):
            verification.replay_run(run_dir, oracle, shown)
        store.pack(run_dir)
    return compare.compare(run_dir)


@contextmanager
def _set_aside(run_dir: Path) -> Iterator[None]:
    """Stored scores get their reference's name; one that gets no successor is put back."""
    moved: dict[Path, Path] = {}
    for folder in verification.trial_folders(run_dir):
        path = store.present(folder / SCORES)
        if path is None:
            continue
        first = next(store.read_lines(folder / SCORES, Score), None)
        reference = (first and first.reference) or "unscored"
        moved[path] = path.with_name(path.name.replace("scores", f"scores.{reference}", 1))
        path.replace(moved[path])
    try:
        yield
    finally:
        for path, aside in moved.items():
            if not store.present(path.parent / SCORES):
                aside.replace(path)
