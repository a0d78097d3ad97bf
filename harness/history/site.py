"""`just site`: the whole log as static pages in one folder. No server, no script, no network.

Pages of runs are made again only when what they are made of changed: making one reads all records of the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import compare, store
from harness.errors import HarnessError
from harness.history import pages, records
from harness.history.pages import Label
from harness.history.series import all_series
from harness.host import environment
from harness.reporting import log, report_html, report_sections
from harness.reporting.log import Entry
from harness.reporting.report_html import Section
from harness.schema import Comparison, Environment

_MADE = "<!-- made of {} -->\n"
_CODE = (Path(report_html.__file__).parent, Path(__file__).parent)


def write(path: Path, results: Path, out: Path, progress: Callable[[str], None]) -> Path:
    """Every page; the path of the first.

    Raises StoreError when the log cannot be read or a page cannot be written, MachineError where a series is
    long enough for change points and Otava is not installed.
    """
    entries = log.entries(path)
    found = all_series(records.past(entries, results))
    groups = pages.labels(found)
    newest = {entry.run_id: entry for entry in entries}
    for number, entry in enumerate(newest.values(), start=1):
        progress(f"run {number}/{len(newest)}: {entry.run_id}")
        _run(entry, entries, results / entry.run_id, (out, groups))
    for label in groups:
        store.write_text(out / label.address, pages.history(label))
    store.write_text(out / pages.INDEX, pages.index(entries, found, environment.now()))
    _forget(out, {*(pages.run_address(run_id) for run_id in newest), *(one.address for one in groups)})
    return out / pages.INDEX


def _forget(out: Path, written: set[str]) -> None:
    """Pages of entries that are no longer in the log, or of labels that are known otherwise now."""
    for folder in ("runs", "history"):
        for page in (out / folder).glob("*.html"):
            if f"{folder}/{page.name}" not in written:
                page.unlink()


def _run(entry: Entry, entries: Sequence[Entry], run: Path, place: tuple[Path, Sequence[Label]]) -> None:
    out, groups = place
    page = out / pages.run_address(entry.run_id)
    mine = [one for one in groups if any(p.facts.run_id == run.name for s in one.series for p in s.points)]
    made = _MADE.format(_made_of(entry, entries, run, mine))
    if page.exists() and made in page.read_text(encoding="utf-8")[-len(made) * 2 :]:
        return
    links = [(f"../{pages.INDEX}", "All runs")]
    links += [(f"../{one.address}", f"History of {one.key.variant}") for one in mine]
    store.write_text(page, _report(entry, entries, run, links) + made)


def _report(entry: Entry, entries: Sequence[Entry], run: Path, links: Sequence[tuple[str, str]]) -> str:
    """The run's report with its notes; its entry alone where the results are not kept or cannot be read."""
    try:
        recipe = store.read_recipe(run)
        comparison = _comparison(run)
        machine = store.read(run / "environment.json", Environment)
        sections = report_sections.sections(run, comparison, recipe, entries)
    except HarnessError:
        return pages.entry(entry)
    noted = Section("Notes on this run", lines=pages.notes(entry), first=True, longest=pages.LONG)
    return report_html.document(comparison, machine, [noted, *sections], links)


def _comparison(run: Path) -> Comparison:
    path = run / "comparison.json"
    return store.read(path, Comparison) if path.exists() else compare.compare(run)


def _made_of(entry: Entry, entries: Sequence[Entry], run: Path, mine: Sequence[Label]) -> str:
    """sha256 over what a run's page shows: entry, notes, comparison, the question's other runs, our code."""
    total = hashlib.sha256()
    question = entry.facts.recipe.question if entry.facts else ""
    same = [e.run_id for e in entries if e.facts and e.facts.recipe.question == question]
    for text in (entry.text, *pages.notes(entry), *same, *(one.address for one in mine)):
        total.update(text.encode() + b"\n")
    files = [run / "comparison.json", *(p for folder in _CODE for p in sorted(folder.glob("*.*")))]
    for path in files:
        total.update(path.read_bytes() if path.is_file() else b"-")
    return total.hexdigest()
