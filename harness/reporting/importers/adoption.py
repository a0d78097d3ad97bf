"""`import FILE...`: foreign measurements as a run of this harness, unproven and unverified as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness import store
from harness.numbers import intervals
from harness.reporting.importers import folder
from harness.schema import Comparison, Imported, Recipe, Row


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
        rows=tuple(_row(group) for group in folder.repeats(found).values()),
        notes=(*folder.remarks(found), *problems),
    )


def _row(group: Sequence[Imported]) -> Row:
    """Repeats of one measurement; latencies are those of the median one."""
    rates = [one.metrics.output_throughput for one in group]
    median = sorted(group, key=lambda one: one.metrics.output_throughput)[len(group) // 2]
    return Row(
        variant=median.variant,
        scenario=median.scenario,
        status="done",
        num_gpus=median.num_gpus,
        metrics=median.metrics,
        output_throughput=intervals.interval(rates),
        invalid="; ".join(dict.fromkeys(one.incomparable for one in group if one.incomparable)),
        labels=tuple(dict.fromkeys(f"{one.tool} {one.tool_version}".strip() for one in group)),
    )
