"""A comparison leaves the program: comparison.json, report.md, report.html, an entry in the log."""

from __future__ import annotations

import os
from pathlib import Path

from harness import registry, store
from harness.reporting import bundle, log, report
from harness.schema import Comparison, Environment, Recipe
from harness.sealing import closing


def log_path() -> Path:
    """$HARNESS_LOG, else EXPERIMENT_LOG.md of this repository."""
    return Path(os.environ.get("HARNESS_LOG") or registry.ROOT / "EXPERIMENT_LOG.md")


def check_log() -> None:
    """Raises StoreError when what is about to be measured could not be logged."""
    log.check(log_path())


def publish(run: Path, comparison: Comparison, *, to_log: bool) -> None:
    """Write what the run says. Raises StoreError when a file cannot be written."""
    recipe = store.read_recipe(run)
    environment = store.read(run / "environment.json", Environment)
    store.write(run / "comparison.json", comparison)
    if to_log:
        text = log.entry(
            comparison,
            environment,
            recipe,
            bundle=bundle.digest(run),
            closing=closing.closing(run, comparison),
        )
        log.append(log_path(), text)
    pages(run, comparison)


def pages(run: Path, comparison: Comparison) -> None:
    """Write report.md and report.html. Raises StoreError when a file cannot be written."""
    recipe = store.read_recipe(run)
    environment = store.read(run / "environment.json", Environment)
    store.write_text(run / "report.md", report.markdown(comparison, environment, recipe))
    page(run, comparison, environment, recipe)


def page(run: Path, comparison: Comparison, environment: Environment | None, recipe: Recipe) -> Path:
    """Write report.html. Raises StoreError when it cannot be written."""
    # matplotlib: half a second that other verbs need not pay
    from harness.reporting import report_html, report_sections

    sections = report_sections.sections(run, comparison, recipe, log.entries(log_path()))
    store.write_text(run / "report.html", report_html.document(comparison, environment, sections))
    return run / "report.html"
