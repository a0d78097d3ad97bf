"""A Comparison as a terminal table and as report.md. Pure; everything an engine wrote is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from rich.table import Table
from rich.text import Text

from harness.escape import block, plain
from harness.escape import markdown as md
from harness.reporting import answer, evidence, goodput, opinions, pairs, stops, what_ran
from harness.reporting.cells import COLUMNS, DEFINITIONS, Column, Standing, standings
from harness.schema import Comparison, Environment, Recipe, Row, Scalar

WIDTH = 80
LINES = 25
"""Most lines that a run without failures takes of a terminal, up to five scenarios of three variants."""
_FRAME = 3
"""Lines around: an empty one, the table's header and where the run is kept."""


def opening(comparison: Comparison, width: int = WIDTH, most: int = LINES) -> list[str]:
    """What a terminal shows first: the question, and a sentence per scenario.

    With the table and the footnotes it takes at most `most` lines where rows and failures leave the room.
    """
    question = _folded([comparison.question], width)
    below = footnotes(comparison, width)
    room = most - len(question) - len(comparison.rows) - len(below) - _FRAME
    return [*question, *answer.lines(comparison, width, room)]


def table(comparison: Comparison) -> Table:
    """One line a row: FAIL rows struck out, unranked rows dim; columns with nothing to say are left out."""
    view = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    rows = [(s, not index) for _, group in standings(comparison.rows) for index, s in enumerate(group)]
    shown = []
    for column in COLUMNS:
        cells = [_terminal_cell(column, standing, first) for standing, first in rows]
        if column.short and any(cell.plain for cell in cells):
            shown.append(cells)
            justify: Literal["left", "right"] = "right" if column.numeric else "left"
            view.add_column(column.short, justify=justify, overflow="fold", no_wrap=column.numeric)
    for line in zip(*shown, strict=True):
        view.add_row(*line)
    return view


def footnotes(comparison: Comparison, width: int = WIDTH, most: int = LINES) -> list[str]:
    """Lines under the terminal's table: what failed or cannot be judged, searches, other tools.

    Remarks on the run stand there as far as `most` lines in all have room for them; the others are counted.
    """
    rows = comparison.rows
    told = [
        *_gathered(rows),
        *pairs.lines(comparison),
        *goodput.lines(comparison),
        *opinions.lines(comparison.opinions),
    ]
    lines = _folded(told, width)
    above = [comparison.question, *(one.full_line for one in answer.answers(comparison))]
    used = len(_folded(above, width)) + len(rows) + _FRAME
    notes = [*evidence.weakest(rows), *stops.lines(rows), *comparison.notes]
    while notes and len(more := _folded(notes[:1], width)) < most - used - len(lines):
        lines += more
        del notes[0]
    num = len(notes) + sum(len(row.notes) for row in rows) + len(alarms(rows))
    counted = f"{num} note{'s' * (num > 1)}, " if num else ""
    return [*lines, f"{counted}all figures and what they mean: report.md, report.html"]


def _folded(texts: Iterable[str], width: int) -> list[str]:
    return [line for text in texts for line in answer.fold(plain(text), width)]


def markdown(comparison: Comparison, environment: Environment | None, recipe: Recipe | None = None) -> str:
    """report.md: table, definitions, verdicts, failures, fairness ledger, machine, how to reproduce."""
    sections = (
        ("Answer", "\n".join(f"- {line}" for line in answers(comparison))),
        ("Comparison", markdown_table(comparison)),
        ("", "\n".join(f"- **{md(term)}**: {md(meaning)}" for term, meaning in DEFINITIONS)),
        ("Pairs", _tabled(pairs.ABOUT, pairs.HEADERS, pairs.rows(comparison))),
        ("Verdicts", _bullets(f"{c.scenario}: {c.words}" for c in comparison.contrasts)),
        ("Failures", _bullets(failures(comparison.rows))),
        ("What the agreement would have seen", _bullets(evidence.lines(comparison.rows))),
        ("Alarms", _bullets(alarms(comparison.rows))),
        ("Silences", _bullets(stops.lines(comparison.rows))),
        ("Notes", _bullets((*comparison.notes, *_row_notes(comparison.rows)))),
        ("Goodput", _tabled(goodput.ABOUT, goodput.HEADERS, goodput.rows(comparison))),
        ("Second opinions", _tabled(opinions.ABOUT, opinions.HEADERS, opinions.rows(comparison.opinions))),
        ("What ran", launched(comparison)),
        ("Where the compared engines differ", _ledger(comparison)),
        ("Machine", _machine(environment) if environment else ""),
        ("Reproduce", _reproduction(comparison, environment, recipe)),
    )
    parts = [f"# {md(comparison.question)}", f"Run `{comparison.run_id}`."]
    parts += [f"## {title}\n\n{body}" if title else body for title, body in sections if body]
    return "\n\n".join(parts) + "\n"


def answers(comparison: Comparison) -> list[str]:
    """The sentence of each scenario, as Markdown."""
    return [md(one.full_line, answer.LONGEST) for one in answer.answers(comparison)]


def markdown_table(comparison: Comparison) -> str:
    """The table alone, as the experiment log carries it."""
    lines = [
        _line(column.title for column in COLUMNS),
        _line("--:" if column.numeric else ":--" for column in COLUMNS),
    ]
    for _, group in standings(comparison.rows):
        lines += [_line(markdown_cell(column, standing) for column in COLUMNS) for standing in group]
    return "\n".join(lines)


def launched(comparison: Comparison) -> str:
    """Version, image, weights and the launch command of each variant; "" when nothing was launched.

    Commands are indented, not fenced: no line of theirs can end the block or pass for a heading.
    """
    parts = [_tabled(what_ran.ABOUT, what_ran.HEADERS, what_ran.rows(comparison.ran))]
    for variant, command in what_ran.commands(comparison.ran):
        lines = "\n".join(f"    {line}" for line in block(command).splitlines())
        parts.append(f"{md(variant)}:\n\n{lines}")
    return "\n\n".join(filter(None, parts))


def failures(rows: Iterable[Row]) -> list[str]:
    """What did not work, with its cause, one line a row."""
    lines = []
    for row in rows:
        name = f"{row.variant} at {row.scenario}"
        if row.status != "done":
            lines.append(f"{name} {row.status}: {row.reason or 'no cause recorded'}")
        if row.invalid:
            lines.append(f"{name} is not ranked: {row.invalid}")
        if row.agreement and row.wrong:
            lines.append(f"{name} answers wrongly: {row.agreement.reason or 'no cause recorded'}")
        if row.agreement and row.agreement.verdict == "CANNOT TELL":
            lines.append(f"{name} cannot be judged: {row.agreement.reason or 'no cause recorded'}")
        if row.metrics and row.metrics.failed:
            total = row.metrics.failed + row.metrics.completed
            lines.append(f"{name}: {row.metrics.failed} of {total} requests failed")
    return lines


def alarms(rows: Iterable[Row]) -> list[str]:
    """What the text alone shows, one line a row; no verdict rests on it."""
    return [
        f"{row.variant} at {row.scenario}: {'; '.join(row.agreement.alarms)}"
        for row in rows
        if row.agreement and row.agreement.alarms
    ]


def _gathered(rows: Sequence[Row]) -> list[str]:
    """Failures, those that differ by the variant's name only in one line."""
    names: dict[str, list[str]] = {}
    for row in rows:
        for line in failures([row]):
            names.setdefault(line.removeprefix(row.variant), []).append(row.variant)
    return [", ".join(dict.fromkeys(found)) + rest for rest, found in names.items()]


def markdown_cell(column: Column, standing: Standing) -> str:
    """One cell of the table, escaped; struck out where the output is wrong."""
    safe = md(column.cell(standing).line)
    return f"~~{safe}~~" if standing.row.wrong and column.measured else safe


def _terminal_cell(column: Column, standing: Standing, first: bool) -> Text:
    """Short enough for 80 columns; reasons and figures stand in the report."""
    row, cell = standing.row, column.cell(standing)
    if column.grouped and not first:
        return Text()
    around = "red" if row.wrong else "" if row.rankable else "dim"
    style = "strike red" if row.wrong and column.measured else around
    return Text(plain(cell.text if cell.brief is None else cell.brief), style=style)


def _line(cells_: Iterable[str]) -> str:
    return "| " + " | ".join(cells_) + " |"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {md(line)}" for line in lines)


def _row_notes(rows: Iterable[Row]) -> list[str]:
    return [f"{row.variant} at {row.scenario}: {note}" for row in rows for note in row.notes]


def _tabled(about: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A paragraph and a table of untrusted cells; "" without rows."""
    if not rows:
        return ""
    lines = [_line(headers), _line([":--"] * len(headers)), *(_line(map(md, row)) for row in rows)]
    return "\n".join((about, "", *lines))


def _ledger(comparison: Comparison) -> str:
    if not comparison.differences:
        return ""
    variants = list(dict.fromkeys(v for d in comparison.differences for v in d.values))
    lines = [_line(("setting", *map(md, variants), "reason")), _line([":--"] * (len(variants) + 2))]
    for difference in comparison.differences:
        values = [md(_shown(difference.values.get(v))) for v in variants]
        lines.append(_line((md(difference.field), *values, md(difference.reason))))
    return "\n".join(lines)


def _shown(value: Scalar) -> str:
    return "not shown" if value is None else str(value)


def machine_facts(environment: Environment | None) -> list[tuple[str, str]]:
    """What the run was made on, by name."""
    if environment is None:
        return []
    gpus = [f"{gpu.name}, {gpu.memory_gb:.0f} GB, driver {gpu.driver or '?'}" for gpu in environment.gpus]
    facts = (
        ("started", environment.started_at),
        ("commit", environment.harness_commit + (" + uncommitted changes" * environment.harness_dirty)),
        ("CPU", f"{environment.cpu_model}, {environment.num_cpus} cores, {environment.memory_gb:.0f} GB"),
        ("accelerators", "; ".join(gpus) or "none"),
        ("system", f"{environment.os}, kernel {environment.kernel}, Python {environment.python}"),
        ("host", environment.hostname_hash),
        ("weights", "; ".join(f"{name} {digest[:16]}" for name, digest in environment.weights.items())),
        ("images", "; ".join(f"{name} {digest}" for name, digest in environment.image_digests.items())),
    )
    return [(name, value) for name, value in facts if value]


def commands(comparison: Comparison, environment: Environment | None) -> str:
    """What to type to get this run again."""
    lines = [f"git checkout {environment.harness_commit}"] if environment else []
    return "\n".join([*lines, f"just bench recipe=results/{comparison.run_id}/recipe.toml"])


def _machine(environment: Environment) -> str:
    return "\n".join(f"- {name}: {md(value)}" for name, value in machine_facts(environment))


def _reproduction(comparison: Comparison, environment: Environment | None, recipe: Recipe | None) -> str:
    words = f"```\n{commands(comparison, environment)}\n```"
    if environment and environment.harness_dirty:
        words += (
            "\n\nThe working tree had uncommitted changes: the commit alone may not give the same numbers."
        )
    if recipe:
        repeats = recipe.repeats or "auto"
        words += f"\n\nSeed {recipe.seed}, {repeats} restart(s) per variant, "
        words += f"{recipe.warmup} warm-up requests per trial."
    return words
