"""`import FILE...`: foreign measurements as a run of this harness, unproven and unverified as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from harness import store
from harness.importers import folder
from harness.schema import Comparison, Imported, Interval, Recipe, Row


def adopt(paths: Sequence[Path], run: Path) -> Comparison:
    """Reads the files, writes recipe.toml, imported.json and comparison.json to `run`.

    Raises InputError when nothing can be read, StoreError when results cannot be written.
    """
    found, problems = folder.read(paths)
    comparison = compared(run.name, found, problems)
    variants = tuple(dict.fromkeys(one.variant for one in found))
    store.write_recipe(run, Recipe(question=comparison.question, variants=variants))
    store.write(run / "imported.json", list(found))
    store.write(run / "comparison.json", comparison)
    return comparison


def compared(run_id: str, found: Sequence[Imported], problems: Sequence[str] = ()) -> Comparison:
    """Rows of foreign measurements: never attested, never verified, INVALID where incomparable."""
    tools = ", ".join(dict.fromkeys(one.tool for one in found))
    return Comparison(
        run_id=run_id,
        question=f"What do these results of {tools} say?",
        rows=tuple(_row(one) for one in found),
        notes=(*folder.remarks(found), *problems),
    )


def _row(one: Imported) -> Row:
    rate = one.metrics.output_throughput
    return Row(
        variant=one.variant,
        scenario=one.scenario,
        status="done",
        num_gpus=one.num_gpus,
        metrics=msgspec.structs.replace(one.metrics),
        output_throughput=Interval(mean=rate, low=rate, high=rate, num=1),
        invalid=one.incomparable,
        labels=(f"{one.tool} {one.tool_version}".strip(),),
    )
