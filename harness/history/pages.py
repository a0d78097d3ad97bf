"""The site's pages: an index, a page per label's history, and one for a run of which only the log is left.

Pure. Whatever comes from a log or an engine is made visible and inert here, and escaped by the template.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from harness.escape import block, plain
from harness.history import changes, drawing, told
from harness.history.series import METRICS, UNPROVEN, Key, Point, Series
from harness.reporting import report_html
from harness.reporting.cells import number
from harness.reporting.log import Entry
from harness.schema import LogFacts

TEMPLATE = Path(__file__).parent / "site.html.j2"
INDEX = "index.html"
LONG = 2000
"""Most characters of a line: notes, questions."""
_VERDICTS = ("PASS", "FAIL", "CANNOT TELL", "not verified", "INVALID", "failed")


@dataclass(frozen=True)
class Cell:
    """One cell: a verdict's badge, text that may be a link, and what stands beside it in grey."""

    text: str
    href: str = ""
    verdict: str = ""
    aside: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under headers; a row of one cell is the heading of those below it."""

    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""


@dataclass(frozen=True)
class Section:
    """A heading with what belongs under it."""

    title: str
    about: str = ""
    plots: Sequence[str] = ()
    lines: Sequence[str] = ()
    tables: Sequence[Table] = ()
    text: str = ""


@dataclass(frozen=True)
class Label:
    """All series of one variant under one label, model and kind of host: one page."""

    key: Key
    """Without a workload."""
    series: tuple[Series, ...]

    @property
    def address(self) -> str:
        """Its page, from the site's root."""
        digest = hashlib.sha256(repr(self.key).encode()).hexdigest()[:8]
        return f"history/{_slug(self.key.variant)}-{digest}.html"

    @property
    def newest(self) -> Point:
        """The last point of all its series."""
        return max((one.newest for one in self.series), key=lambda point: point.facts.date)


def labels(found: Sequence[Series]) -> list[Label]:
    """Series by the page that they stand on, in their order."""
    groups: dict[Key, list[Series]] = {}
    for series in found:
        groups.setdefault(series.key._replace(workload=""), []).append(series)
    return [Label(key, tuple(members)) for key, members in groups.items()]


def run_address(run_id: str) -> str:
    """The page of a run, from the site's root."""
    return f"runs/{_slug(run_id)}.html"


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip(".") or "-"


def index(entries: Sequence[Entry], found: Sequence[Series], when: str) -> str:
    """The first page: newest verdicts, questions with their runs, histories."""
    groups = labels(found)
    runs = len({entry.run_id for entry in entries})
    opening = [f"{runs} runs of {len(questions(entries))} questions, written {when}."]
    sections = [
        Section("Newest verdicts", _NEWEST, tables=list(_matrices(groups))),
        Section("Questions", _QUESTIONS, tables=[_asked(questions(entries))]),
        Section("History", _HISTORY, tables=[_histories(groups)]),
    ]
    unread = [entry for entry in entries if entry.facts is None]
    if unread:
        rows = [(Cell(plain(e.run_id), run_address(e.run_id)), Cell(e.date)) for e in unread]
        about = "Their machine-readable part is missing, damaged or of another version."
        sections.append(Section("Entries that cannot be read", about, tables=[Table(("run", "date"), rows)]))
    return _page("Serving engines compared", "", opening, sections)


_NEWEST = (
    "Of each variant at each workload, the newest run: verdict on its output, output tok/s where it may be "
    "compared. A row of another day is another day's measurement: compare within a run."
)
_QUESTIONS = "Newest first; a run's report has every figure, plot and command."
_HISTORY = (
    "One line per variant, proven label, model, change of the command line and kind of host: nothing else is "
    "put into one series."
)


def questions(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Question to its runs, newest first; the newest question first. One entry per run: its newest."""
    newest = {entry.run_id: entry for entry in entries}
    found: dict[str, list[Entry]] = {}
    for entry in sorted(newest.values(), key=lambda e: e.date, reverse=True):
        if entry.facts:
            found.setdefault(entry.facts.recipe.question, []).append(entry)
    return found


def _asked(found: dict[str, list[Entry]]) -> Table:
    rows: list[Sequence[Cell]] = []
    for question, entries in found.items():
        rows.append([Cell(plain(question, LONG))])
        rows += [_run(entry, entry.facts) for entry in entries if entry.facts]
    return Table(("date", "run", "variants", "rows"), rows)


def _run(entry: Entry, facts: LogFacts) -> tuple[Cell, ...]:
    num = len(entry.notes)
    return (
        Cell(entry.date[:10]),
        Cell(
            plain(entry.run_id),
            run_address(entry.run_id),
            aside=f"{num} note{'s' * (num > 1)}" if num else "",
        ),
        Cell(plain(", ".join(facts.recipe.variants), LONG)),
        Cell(plain(_counted(facts))),
    )


def _counted(facts: LogFacts) -> str:
    """ "PASS 10, FAIL 1"."""
    states = [
        row.status if row.status != "done" else "INVALID" if row.invalid else row.verdict or "not verified"
        for row in facts.rows
    ]
    return ", ".join(f"{state} {states.count(state)}" for state in dict.fromkeys(states)) or "none"


def _matrices(groups: Sequence[Label]) -> Iterator[Table]:
    """A table per model and kind of host: a line per workload, a column per variant."""
    places: dict[tuple[str, str], list[Label]] = {}
    for label in groups:
        places.setdefault((label.key.model, label.key.host), []).append(label)
    for (model, host), members in places.items():
        newest: dict[tuple[str, str], tuple[Point, Label]] = {}
        for label in members:
            for series in label.series:
                place = (series.key.workload, label.key.variant)
                if place not in newest or newest[place][0].facts.date < series.newest.facts.date:
                    newest[place] = (series.newest, label)
        variants = sorted({variant for _, variant in newest})
        rows = [
            [Cell(plain(workload)), *(_verdict(newest.get((workload, variant))) for variant in variants)]
            for workload in sorted({workload for workload, _ in newest}, key=_natural)
        ]
        headers = ["workload", *(plain(variant) for variant in variants)]
        yield Table(headers, rows, title=plain(f"{model} · {host}", LONG))


def _natural(name: str) -> list[tuple[str, int]]:
    """Sorts text-500 before text-1000."""
    return [(word, int(part or 0)) for word, part in re.findall(r"(\D*)(\d*)", name)]


def _verdict(found: tuple[Point, Label] | None) -> Cell:
    if found is None:
        return Cell("-")
    point, label = found
    rate = point.value(METRICS[0])
    return Cell(
        number(rate.mean) if rate else "history",
        label.address,
        verdict=_known(point.state),
        aside=point.facts.date[:10],
    )


def _known(state: str) -> str:
    """A verdict as the page colours it: of a log that was edited by hand, only known words."""
    return state if state in _VERDICTS else "not verified"


def _histories(groups: Sequence[Label]) -> Table:
    rows = []
    for label in sorted(groups, key=lambda one: (one.key.variant, one.key.model)):
        num = len({point.facts.run_id for series in label.series for point in series.points})
        rows.append(
            (
                Cell(plain(label.key.variant), label.address),
                Cell(plain(label.key.model)),
                Cell(plain(label.key.host)),
                Cell(plain(label.key.changed) or "-"),
                Cell(str(num)),
                Cell(label.newest.facts.date[:10]),
                Cell(str(sum(map(_events, label.series)))),
            )
        )
    return Table(("variant", "model", "host", "changed", "runs", "newest", "changes and flips"), rows)


def _events(series: Series) -> int:
    """Change points, steps and flips of a series."""
    return sum(1 for _ in _altered(series)) + len(changes.flips(series))


def history(label: Label) -> str:
    """The page of one label."""
    key = label.key
    shown = "nothing that is kept shows it" if key.label == UNPROVEN else key.label
    opening = [
        f"Label as proven: {plain(shown, LONG)}.",
        plain(
            f"Model {key.model}; {key.changed or 'nothing changed by the command line'}; {key.host}.", LONG
        ),
    ]
    order = [key.variant]
    sections = [
        Section(
            plain(series.key.workload),
            "" if len(series.points) >= changes.FEWEST else _FEW.format(len(series.points), changes.FEWEST),
            plots=drawing.figures(series, order),
            lines=[plain(line, LONG) for line in (*told.verdicts(series), *_altered(series))],
            tables=[_runs(series)],
        )
        for series in label.series
    ]
    return _page(f"History of {plain(key.variant)}", f"../{INDEX}", opening, sections)


_FEW = "Runs so far: {}. Change points need {}."


def _altered(series: Series) -> Iterator[str]:
    for metric in METRICS:
        yield from told.altered(series, metric)


def _runs(series: Series) -> Table:
    rows = []
    for point in reversed(series.points):
        values = [point.value(metric) for metric in METRICS]
        version = point.label.engine_version if point.label else ""
        rows.append(
            (
                Cell(point.facts.date[:10]),
                Cell(plain(point.facts.run_id), f"../{run_address(point.facts.run_id)}"),
                Cell("", verdict=_known(point.state), aside=plain(point.row.invalid)),
                *(Cell(told.value(value) if value else "-") for value in values),
                Cell(plain(version) or "-"),
                Cell(plain(point.facts.commit[:8])),
                Cell(plain(point.facts.host)),
            )
        )
    figures = tuple(metric.title for metric in METRICS)
    return Table(("date", "run", "verdict", *figures, "version", "commit", "host"), rows)


def entry(found: Entry) -> str:
    """The page of a run whose results are not kept: its entry as it stands in the log."""
    sections = [
        Section("Notes", lines=notes(found)) if found.notes else None,
        Section(
            "Entry", "As it stands in the log; the run's results are not kept here.", text=block(found.text)
        ),
    ]
    question = found.facts.recipe.question if found.facts else found.run_id
    opening = [f"Run {plain(found.run_id)}, {found.date}"]
    return _page(plain(question, LONG), f"../{INDEX}", opening, [s for s in sections if s])


def notes(found: Entry) -> list[str]:
    """What was noted later, one line each."""
    return [plain(f"{note.date} {note.author}: {note.text}", LONG) for note in found.notes]


def _page(title: str, home: str, opening: Sequence[str], sections: Sequence[Section]) -> str:
    safe = [
        Section(s.title, s.about, [Markup(plot) for plot in s.plots], s.lines, s.tables, s.text)
        for s in sections
    ]
    return report_html.rendered(TEMPLATE, title=title, home=home, opening=opening, sections=safe)
