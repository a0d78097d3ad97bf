"""A Comparison as a terminal table and as report.md. Pure; everything an engine wrote is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from rich import box
from rich.table import Table
from rich.text import Text

from harness.escape import block, plain
from harness.escape import markdown as md
from harness.reporting import goodput, opinions, what_ran
from harness.reporting.cells import COLUMNS, DEFINITIONS, Column, Standing, standings
from harness.schema import Comparison, Environment, Recipe, Row, Scalar


def table(comparison: Comparison) -> Table:
    """The comparison for a terminal of 80 columns: FAIL rows struck out, unranked rows dim."""
    title = Text(plain(comparison.question))
    view = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    on_gpu = any(row.num_gpus for row in comparison.rows)
    shown = [column for column in COLUMNS if column.short and (on_gpu or not column.on_accelerators)]
    for column in shown:
        justify: Literal["left", "right"] = "right" if column.numeric else "left"
        view.add_column(column.short, justify=justify, overflow="fold", no_wrap=column.numeric)
    for scenario, group in standings(comparison.rows):
        view.add_section()
        view.add_row("", Text(plain(scenario), style="bold"))
        for standing in group:
            view.add_row(*(_terminal_cell(column, standing) for column in shown))
    return view


def footnotes(comparison: Comparison) -> tuple[str, ...]:
    """Lines printed under the terminal table: verdicts, failures, then what the columns mean."""
    lines = [plain(f"{c.scenario}: {c.words}") for c in comparison.contrasts if c.primary]
    lines += [plain(line) for line in failures(comparison.rows)]
    lines += [plain(line) for line in (*goodput.lines(comparison), *opinions.lines(comparison.opinions))]
    lines += [plain(note) for note in comparison.notes]
    return (*lines, *(f"{term}: {meaning}" for term, meaning in DEFINITIONS))


def markdown(comparison: Comparison, environment: Environment | None, recipe: Recipe | None = None) -> str:
    """report.md: table, definitions, verdicts, failures, fairness ledger, machine, how to reproduce."""
    sections = (
        ("", markdown_table(comparison)),
        ("", "\n".join(f"- **{md(term)}**: {md(meaning)}" for term, meaning in DEFINITIONS)),
        ("Verdicts", _bullets(f"{c.scenario}: {c.words}" for c in comparison.contrasts)),
        ("Failures", _bullets(failures(comparison.rows))),
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


def markdown_table(comparison: Comparison) -> str:
    """The table alone, as the experiment log carries it."""
    lines = [
        _line(column.title for column in COLUMNS),
        _line("--:" if column.numeric else ":--" for column in COLUMNS),
    ]
    for _, group in standings(comparison.rows):
        lines += [_line(_markdown_cell(column, standing) for column in COLUMNS) for standing in group]
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
        if row.agreement:
            lines += [f"{name} raised an alarm: {alarm}" for alarm in row.agreement.alarms]
        if row.metrics and row.metrics.failed:
            total = row.metrics.failed + row.metrics.completed
            lines.append(f"{name}: {row.metrics.failed} of {total} requests failed")
    return lines


def _markdown_cell(column: Column, standing: Standing) -> str:
    safe = md(column.cell(standing).line)
    return f"~~{safe}~~" if standing.row.wrong and column.measured else safe


def _terminal_cell(column: Column, standing: Standing) -> Text:
    """Short enough for 80 columns; reasons and figures stand in the report."""
    row, cell = standing.row, column.cell(standing)
    around = "red" if row.wrong else "" if row.rankable else "dim"
    style = "strike red" if row.wrong and column.measured else around
    return Text(plain(cell.brief or cell.text), style=style)


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
