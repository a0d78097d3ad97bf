"""A folder of foreign result files as the origin's table: a row per shape, tokens/s per variant, gap in %.

Files named <variant>-<in>-<out>-<tag>.json or <variant>-sharegpt-<tag>.json carry variant, shape and tag in
their name (the tag may be empty); others take them from their content. Only files that number themselves,
<name>-r1, <name>-r2, are repeats of one variant: what else would fall together is kept apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from rich import box
from rich.table import Table
from rich.text import Text

from harness.errors import InputError
from harness.escape import plain
from harness.numbers.intervals import ratio
from harness.reporting import importers
from harness.reporting.cells import number
from harness.reporting.importers import apart
from harness.schema import Imported

_NAME = re.compile(
    r"(?P<variant>.+?)-(?P<shape>\d+-\d+|sharegpt(?:-sample|-lengths)?)(?:-(?P<tag>.*))?\.jsonl?"
)


def named(found: Imported) -> Imported:
    """The measurement with variant and shape from its file's name, where the name says them."""
    match = _NAME.fullmatch(found.file)
    if not match:
        return found
    load = found.scenario.partition("@")[2]
    tag = re.sub(r"(^|-)r\d+$", "", match["tag"] or "")  # restarts of one variant are repeats of it
    tag = f"-{tag}" if tag else ""
    return msgspec.structs.replace(found, variant=match["variant"] + tag, scenario=f"{match['shape']}@{load}")


def read(paths: Sequence[Path]) -> tuple[list[Imported], list[str]]:
    """Measurements of files and of folders' *.json and *.jsonl, and a sentence per file that was left out.

    A tag that all files share is dropped from the variants. What falls together without being numbered as
    repeats is told too. Raises InputError when nothing can be read.
    """
    files = [f for p in paths for f in (sorted(p.rglob("*.json*")) if p.is_dir() else [p])]
    found: list[Imported] = []
    origins: list[apart.Origin] = []
    problems: list[str] = []
    for file in files:
        try:
            read_here = [named(one) for one in importers.read(file)]
            found += read_here
            origins += apart.origins(file, read_here)
        except InputError as error:
            problems.append(error.message)
    if not found:
        where = ", ".join(map(str, paths))
        raise InputError(f"Nothing in {where} can be imported. {' '.join(problems[:3])}".rstrip())
    kept, told = apart.apart(_without_common_tag(found), origins)
    return kept, [*problems, *told]


def repeats(found: Sequence[Imported]) -> dict[tuple[str, str], list[Imported]]:
    """(scenario, variant) -> its measurements: several are repeats, which `read` saw to."""
    groups: dict[tuple[str, str], list[Imported]] = {}
    for one in found:
        groups.setdefault((one.scenario, one.variant), []).append(one)
    return groups


def is_foreign(words: Sequence[str]) -> bool:
    """Whether `compare` was given folders or files of other tools, not runs of this harness."""
    paths, _ = _split(words)
    return bool(paths) and all(p.exists() and not (p / "recipe.toml").exists() for p in paths)


def run(words: Sequence[str]) -> tuple[Table, list[str]]:
    """`compare FOLDER ... [baseline=VARIANT]`: the table, and what must be said under it."""
    paths, baseline = _split(words)
    found, problems = read(paths)
    return gap_table(found, baseline), [*remarks(found), *problems]


def _split(words: Sequence[str]) -> tuple[list[Path], str]:
    """(files and folders, the variant after baseline=)."""
    named = [word.removeprefix("baseline=") for word in words if word.startswith("baseline=")]
    return [Path(word) for word in words if not word.startswith("baseline=")], named[-1] if named else ""


def gap_table(found: Sequence[Imported], baseline: str = "") -> Table:
    """Output tokens/s per shape and variant; the gap against `baseline` (the first variant by default)."""
    variants = list(dict.fromkeys(one.variant for one in found))
    baseline = baseline or variants[0]
    if baseline not in variants:
        raise InputError(f"There is no variant {baseline!r} here; there are: {', '.join(variants)}.")
    order = [baseline, *(v for v in variants if v != baseline)]
    view = Table(box=box.SIMPLE_HEAD, padding=0, title=f"output tok/s; gap against {plain(baseline)}")
    view.add_column("shape")
    for variant in order:
        view.add_column(plain(variant), justify="right", overflow="fold")
        if variant != baseline:
            view.add_column("gap", justify="right")
    by_cell = repeats(found)
    for scenario in sorted({one.scenario for one in found}, key=_shape_order):
        view.add_row(Text(plain(scenario)), *_row(scenario, order, by_cell))
    return view


def remarks(found: Sequence[Imported]) -> list[str]:
    """Why a figure is not compared, and what is left out, one line per file and reason."""
    lines = [f"{o.file}: {text}" for o in found for text in (o.incomparable, *o.caveats) if text]
    models = {o.model for o in found if o.model}
    if len(models) > 1:
        lines.insert(
            0, f"these files are of different models ({', '.join(sorted(models))}); gaps mean nothing"
        )
    return list(dict.fromkeys(lines))


def _row(scenario: str, order: list[str], by_cell: Mapping[tuple[str, str], list[Imported]]) -> list[Text]:
    base = by_cell.get((scenario, order[0]), [])
    cells = []
    for variant in order:
        group = by_cell.get((scenario, variant), [])
        rates = [one.metrics.output_throughput for one in group if one.metrics.output_throughput]
        struck = any(one.incomparable for one in group)
        mean = number(sum(rates) / len(rates)) if rates else "-"
        mean += f" (n={len(rates)})" if len(rates) > 1 else ""
        cells.append(Text(mean, style="strike dim" if struck else ""))
        if variant != order[0]:
            cells.append(Text(_gap(base, group)))
    return cells


def _gap(base: Sequence[Imported], group: Sequence[Imported]) -> str:
    """Relative difference in percent; with its 95 % interval where both sides were repeated."""
    if not base or not group or any(one.incomparable for one in (*base, *group)):
        return "-"
    sides = [[one.metrics.output_throughput for one in side] for side in (group, base)]
    found = ratio(sides[0], sides[1], paired=False)
    if found is None:
        return "-"
    words = f"{found.mean - 1:+.1%}"
    return words if found.num < 2 else f"{words} ({found.low - 1:+.1%}..{found.high - 1:+.1%})"


def _shape_order(scenario: str) -> tuple[int, int, str]:
    """Numeric shapes by length, then the others by name."""
    match = re.match(r"(\d+)-(\d+)@", scenario)
    return (0, int(match[1]) * 1_000_000 + int(match[2]), scenario) if match else (1, 0, scenario)


def _without_common_tag(found: list[Imported]) -> list[Imported]:
    names = [_NAME.fullmatch(one.file) for one in found]
    tags = {re.sub(r"(^|-)r\d+$", "", name["tag"] or "") for name in names if name}
    if not all(names) or len(tags) != 1 or not (tag := tags.pop()):
        return found
    return [msgspec.structs.replace(one, variant=one.variant.removesuffix(f"-{tag}")) for one in found]
