"""The evidence behind the verdicts, as tables of report.html: statistics against floors, text by position."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from harness import store
from harness.correctness import promises, textcheck
from harness.errors import StoreError
from harness.reporting import evidence
from harness.reporting.report_html import Section
from harness.schema import Agreement, Comparison, RequestRecord

STATISTICS = ("variant", "scenario", "verdict", "statistic", "value", "floor", "restarts", "limit", "reason")
TEXT = ("variant", "scenario", "quarter", "repeated 3-grams", "zlib / size", *textcheck.CLASSES)
Said = Iterable[tuple[str, str, Sequence[RequestRecord]]]
"""(variant, scenario, records) of each trial."""


def statistics(run: Path, comparison: Comparison, plots: list[str]) -> Section:
    """Every statistic with its floor, the restarts' own noise and its limit; what batching changes."""
    return Section(
        "Agreement with the reference",
        "Margin: how much more probable the reference finds its own choice than the emitted token. "
        "A statistic counts against its floor, what rounding alone does to these tokens or, where that was "
        "not played, the noise of healthy output; like FAULT: how much of a named fault shows; restarts: "
        "the same statistic of the variant's own restarts against each other. p99_margin is not judged. "
        "Sampler: standard deviations off what a true one gives, tokens beyond what is allowed, and how many "
        "nats a named fault explains the tokens better by (13.8 fail).",
        plots=plots,
        headers=STATISTICS,
        rows=[
            (row.variant, row.scenario, row.agreement.verdict, *cells, row.agreement.reason)
            for row in comparison.rows
            if row.agreement
            for cells in _cells(row.agreement)
        ],
        lines=[*_floors(comparison), *_stability(run)],
    )


def _cells(found: Agreement) -> Iterator[tuple[str, ...]]:
    """(statistic, value, floor, restarts, limit) each."""
    for name, value in found.statistics.items():
        outside = f" ({found.outside_mass:.1%} outside)" if name == "mean_kl" and found.outside_mass else ""
        yield (
            name + outside,
            f"{value.mean:.4g} ({value.low:.4g}-{value.high:.4g})",
            *(_figure(given.get(name)) for given in (found.floor, found.self_noise, found.thresholds)),
        )
    for name, share in found.likeness.items():
        yield (f"like {name}", f"{share.mean:.2f} ({share.low:.2f} to {share.high:.2f})", "0", "-", "-")
    for name, figure in found.sampler.items():
        yield (f"sampler: {name}", f"{figure:.4g}", "0", "-", "-")
    if found.p99_margin is not None:
        yield ("p99_margin", f"{found.p99_margin:.4g}", _figure(found.floor.get("p99_margin")), "-", "-")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _floors(comparison: Comparison) -> list[str]:
    """Where each floor comes from, and what the verdict would have seen."""
    return [
        f"{row.variant} at {row.scenario}: floor {found.floor_source}; {evidence.words(found)}"
        for row in comparison.rows
        if (found := row.agreement) and found.floor_source
    ]


def _stability(run: Path) -> list[str]:
    """What each server life showed of its determinism."""
    found = []
    for path in sorted(run.glob(f"*/r*/{promises.DETERMINISM}")):
        try:
            passes = store.read(path, promises.Determinism).passes
        except StoreError:
            continue
        found.append(f"{path.parent.parent.name} {path.parent.name}: {promises.stability(passes)}")
    return found


def text(said: Said) -> Section:
    """Repetition, compression and character classes by quarter of the output, per variant and load."""
    groups: dict[tuple[str, str], list[RequestRecord]] = defaultdict(list)
    for variant, scenario, records in said:
        groups[variant, scenario].extend(records)
    return Section(
        "Text by position",
        "Means over the outputs' quarters, without any reference: a collapse that begins late shows as a "
        "rise of repetition or of one character class from the first to the last quarter.",
        headers=TEXT,
        rows=[
            (
                *name,
                f"{number}",
                f"{quarter.repeated_share:.1%}",
                f"{quarter.compression:.2f}",
                *(f"{quarter.classes[c]:.0%}" for c in textcheck.CLASSES),
            )
            for name, records in groups.items()
            for number, quarter in enumerate(textcheck.by_position(records), start=1)
        ],
    )
