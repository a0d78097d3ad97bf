"""report.html: one file, no script, no network; everything an engine wrote is escaped by the template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from markupsafe import Markup

from harness.reporting import goodput, opinions, report
from harness.reporting.cells import DEFINITIONS, HEADERS, cells, rankable, ranked, struck
from harness.reporting.escape import block, plain
from harness.schema import Comparison, Environment, Row

TEMPLATE = Path(__file__).parent / "report.html.j2"


@dataclass(frozen=True)
class Block:
    """Text that is folded away: a log tail, an answer."""

    title: str
    text: str


@dataclass(frozen=True)
class Section:
    """A heading with what belongs under it; empty sections are not shown."""

    title: str
    about: str = ""
    plots: Sequence[str] = ()
    """SVG elements made by harness/reporting/plots.py."""
    headers: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    lines: Sequence[str] = ()
    blocks: Sequence[Block] = field(default_factory=tuple)

    @property
    def empty(self) -> bool:
        """Nothing to show."""
        return not (self.plots or self.rows or self.lines or self.blocks)


def document(comparison: Comparison, environment: Environment | None, sections: Sequence[Section]) -> str:
    """The page. `sections` come between the table and the machine."""
    loader = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    template = loader.from_string(TEMPLATE.read_text(encoding="utf-8"))
    shown = [*sections, *_closing(comparison, environment)]
    return template.render(
        question=plain(comparison.question),
        run_id=plain(comparison.run_id),
        started_at=environment.started_at if environment else "",
        verdicts=[plain(f"{c.scenario}: {c.words}") for c in comparison.contrasts],
        headers=HEADERS,
        rows=[_row(row, rank) for rank, row in ranked(comparison.rows)],
        definitions=DEFINITIONS,
        sections=[_inert(section) for section in shown if not section.empty],
    )


def _row(row: Row, rank: int | None) -> dict[str, object]:
    style = "struck" if struck(row) else "" if rankable(row) else "unranked"
    return {"style": style, "cells": [plain(cell) for cell in cells(row, rank)]}


def _inert(section: Section) -> dict[str, object]:
    """A section as the template reads it: control characters visible, only our own SVG taken as markup."""
    return {
        "title": plain(section.title),
        "about": plain(section.about, 600),
        "plots": [Markup(plot) for plot in section.plots],
        "headers": [plain(header) for header in section.headers],
        "rows": [[plain(cell) for cell in row] for row in section.rows],
        "lines": [plain(line) for line in section.lines],
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
        Section("Notes", lines=[*comparison.notes, *notes]),
        Section("Goodput", goodput.ABOUT, headers=goodput.HEADERS, rows=goodput.rows(comparison)),
        Section(
            "Second opinions",
            opinions.ABOUT,
            headers=opinions.HEADERS,
            rows=opinions.rows(comparison.opinions),
        ),
        Section("Energy and cost", headers=_ENERGY_HEADERS, rows=_energy(comparison.rows)),
        Section("Where the compared engines differ", headers=("setting", *variants, "reason"), rows=ledger),
        Section("Machine", headers=("fact", "value"), rows=report.machine_facts(environment)),
        Section("Reproduce", blocks=[Block("Commands", report.commands(comparison, environment))]),
    ]


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
