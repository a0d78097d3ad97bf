"""report.html: one file, no script, no network; everything an engine wrote is escaped by the template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from markupsafe import Markup

from harness.escape import block, plain
from harness.numbers.verdicts import decided
from harness.reporting import answer, goodput, opinions, pairs, report, stops, what_ran
from harness.reporting.cells import COLUMNS, DEFINITIONS, Column, Standing, standings
from harness.schema import Comparison, Contrast, Environment, Row

TEMPLATE = Path(__file__).parent / "report.html.j2"
STYLE = Path(__file__).parent / "page.css"
"""Of every page that this project writes."""


@dataclass(frozen=True)
class Block:
    """Text that is folded away: a log tail, an answer."""

    title: str
    text: str


@dataclass(frozen=True)
class Group:
    """Plots that belong together, under a smaller heading."""

    title: str
    plots: Sequence[str]
    beneath: Sequence[str] = ()
    """A second row."""


@dataclass(frozen=True)
class Section:
    """A heading with what belongs under it; empty sections are not shown."""

    title: str
    about: str = ""
    plots: Sequence[str] = ()
    """SVG elements made by harness/reporting/plots.py."""
    groups: Sequence[Group] = ()
    headers: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    lines: Sequence[str] = ()
    blocks: Sequence[Block] = field(default_factory=tuple)
    first: bool = False
    """It stands before the table."""
    longest: int = 300
    """Most characters that are shown of one of its lines."""

    @property
    def empty(self) -> bool:
        """Nothing to show."""
        return not (self.plots or self.groups or self.rows or self.lines or self.blocks)


def rendered(template: Path, **values: object) -> str:
    """A page from a template: everything is escaped that is not markup of our own making."""
    loader = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    page = loader.from_string(template.read_text(encoding="utf-8"))
    return page.render(style=Markup(STYLE.read_text(encoding="utf-8")), **values)


def document(
    comparison: Comparison,
    environment: Environment | None,
    sections: Sequence[Section],
    links: Sequence[tuple[str, str]] = (),
) -> str:
    """The page. `sections` come between the table and the machine; `links`: (address, words) above it."""
    shown = [*sections, *_closing(comparison, environment)]
    return rendered(
        TEMPLATE,
        links=links,
        question=plain(comparison.question),
        run_id=plain(comparison.run_id),
        started_at=environment.started_at if environment else "",
        answers=[_answer(one) for one in answer.answers(comparison)],
        matrices=_matrices([contrast for contrast in comparison.contrasts if contrast.primary]),
        forest=Markup(_forest(comparison)),
        baselines=plain(", ".join(dict.fromkeys(c.baseline for c in comparison.contrasts))),
        headers=[column.title for column in _COLUMNS],
        scenarios=_scenarios(comparison.rows),
        definitions=DEFINITIONS,
        opening=[_inert(section) for section in shown if section.first and not section.empty],
        sections=[_inert(section) for section in shown if not section.first and not section.empty],
    )


def _answer(one: answer.Answer) -> dict[str, object]:
    style = "clear" if one.decided else "dim"
    return {"style": style, "scenario": plain(one.scenario), "words": plain(one.full, answer.LONGEST)}


def _matrices(contrasts: Sequence[Contrast]) -> list[dict[str, object]]:
    """A line per scenario and variant against its baseline; those of the same figures in one table."""
    lines: dict[tuple[str, str, str], dict[str, dict[str, str]]] = {}
    for contrast in contrasts:
        key = (contrast.scenario, contrast.variant, contrast.baseline)
        lines.setdefault(key, {})[plain(answer.name(contrast))] = _contrast(contrast)
    tables: dict[tuple[str, ...], list[dict[str, object]]] = {}
    for names, cells in lines.items():
        line = dict(zip(("scenario", "variant", "baseline"), map(plain, names), strict=True))
        tables.setdefault(tuple(cells), []).append({**line, "cells": list(cells.values())})
    return [{"figures": figures, "lines": found} for figures, found in tables.items()]


def _contrast(contrast: Contrast) -> dict[str, str]:
    """Ratio, interval, and whether it is decided: green = the variant is better, red = it is worse."""
    estimate = contrast.ratio
    if estimate is None:
        return {"style": "dim", "ratio": "-", "span": "", "word": "not measured"}
    span = f"{estimate.low:.2f}-{estimate.high:.2f}" if estimate.num > 1 else "one restart"
    if decided(contrast):
        better = (estimate.mean > 1.0) != contrast.lower_is_better
        style, word = ("good", "better") if better else ("bad", "worse")
    else:
        reach = f"; {contrast.detectable:.2f}x would show" if contrast.detectable else ""
        style, word = "dim", f"not decided{reach}"
    return {"style": style, "ratio": f"{estimate.mean:.2f}x", "span": span, "word": word}


def _forest(comparison: Comparison) -> str:
    """The ratios as a plot; "" where none has an interval."""
    rates = [c for c in comparison.contrasts if c.metric == "output_throughput"]
    known = [c for c in rates if c.ratio and c.ratio.num > 1]
    if not known:
        return ""
    from harness.reporting import plots  # matplotlib: half a second that a page without plots need not pay

    order = tuple(dict.fromkeys(row.variant for row in comparison.rows))
    return plots.forest("Output tok/s, ratios", "times the baseline", known, order)


_COLUMNS = tuple(column for column in COLUMNS if not column.grouped)
"""The scenario is the heading of its rows."""


def _scenarios(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Rows under their scenario, best first."""
    return [
        {"name": plain(name), "rows": [_row(standing) for standing in group]}
        for name, group in standings(rows)
    ]


def _row(standing: Standing) -> dict[str, object]:
    row = standing.row
    style = "struck" if row.wrong else "" if row.rankable else "unranked"
    return {"style": style, "cells": [_cell(column, standing) for column in _COLUMNS]}


def _cell(column: Column, standing: Standing) -> dict[str, object]:
    """One cell as the template reads it."""
    cell = column.cell(standing)
    return {
        "header": column.title,
        "measured": column.measured,
        "text": plain(cell.text),
        "aside": plain(f"({cell.span})" if cell.span else ", ".join(cell.details)),
        "verdict": cell.badge,
        "share": None if cell.share is None else round(100 * cell.share),
    }


def _inert(section: Section) -> dict[str, object]:
    """A section as the template reads it: control characters visible, only our own SVG taken as markup."""
    return {
        "title": plain(section.title),
        "about": plain(section.about, 600),
        "plots": [Markup(plot) for plot in section.plots],
        "groups": [
            {
                "title": plain(g.title),
                "rows": [[Markup(p) for p in row] for row in (g.plots, g.beneath) if row],
            }
            for g in section.groups
        ],
        "headers": [plain(header) for header in section.headers],
        "rows": [[plain(cell) for cell in row] for row in section.rows],
        "lines": [plain(line, section.longest) for line in section.lines],
        "blocks": [{"title": plain(b.title), "text": block(b.text)} for b in section.blocks],
    }


def _closing(comparison: Comparison, environment: Environment | None) -> list[Section]:
    variants = list(dict.fromkeys(v for d in comparison.differences for v in d.values))
    ledger = [
        (
            d.field,
            *("not shown" if d.values.get(v) is None else str(d.values.get(v)) for v in variants),
            d.reason,
        )
        for d in comparison.differences
    ]
    notes = [f"{r.variant} at {r.scenario}: {note}" for r in comparison.rows for note in r.notes]
    return [
        Section("Failures", lines=report.failures(comparison.rows)),
        Section(
            "Alarms",
            "What the text alone shows; no verdict rests on it.",
            lines=report.alarms(comparison.rows),
        ),
        Section("Silences", stops.ABOUT, lines=stops.lines(comparison.rows)),
        Section("Notes", lines=[*comparison.notes, *notes]),
        Section("Every figure", _EVERY, lines=[f"{c.scenario}: {c.words}" for c in comparison.contrasts]),
        Section("Pairs", pairs.ABOUT, headers=pairs.HEADERS, rows=pairs.rows(comparison)),
        Section("Goodput", goodput.ABOUT, headers=goodput.HEADERS, rows=goodput.rows(comparison)),
        Section(
            "Second opinions",
            opinions.ABOUT,
            headers=opinions.HEADERS,
            rows=opinions.rows(comparison.opinions),
        ),
        Section("Energy and cost", headers=_ENERGY_HEADERS, rows=_energy(comparison.rows)),
        Section(
            "What ran",
            what_ran.ABOUT,
            headers=what_ran.HEADERS,
            rows=what_ran.rows(comparison.ran),
            blocks=[Block(f"{v}: command", text) for v, text in what_ran.commands(comparison.ran)],
        ),
        Section("Where the compared engines differ", headers=("setting", *variants, "reason"), rows=ledger),
        Section("Machine", headers=("fact", "value"), rows=report.machine_facts(environment)),
        Section("Reproduce", blocks=[Block("Commands", report.commands(comparison, environment))]),
    ]


_EVERY = (
    "Primary figures are corrected together for how many they are (Holm); exploratory ones are not, and are "
    "never called decided."
)
_ENERGY_HEADERS = (
    "variant",
    "scenario",
    "mean W",
    "J per output token",
    "throttled by",
    "cost per 1e6 tokens",
    "",
)


def _energy(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Figures that are not valid are named so, not shown."""
    lines: list[tuple[str, ...]] = []
    for row in rows:
        e, cost = row.energy, row.cost_per_million_tokens
        if e is None and cost is None:
            continue
        good = e is not None and not e.invalid
        joules = e.joules_per_output_token if e and good else None
        lines.append(
            (
                row.variant,
                row.scenario,
                f"{e.mean_power_w:.0f}" if e and good else "-",
                f"{joules:.3g}" if joules is not None else "-",
                ", ".join(e.throttled) if e else "-",
                f"{cost:.3g}" if cost is not None else "-",
                e.invalid if e else "",
            )
        )
    return lines
