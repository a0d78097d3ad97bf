"""Pairs: a variant with an option of production on beside itself without it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from harness.label import switches
from harness.numbers import reuse
from harness.numbers.verdicts import decided
from harness.reporting import answer
from harness.schema import Comparison, Contrast, Population, Row

ABOUT = (
    "Each variant with switches beside the same variant without them (or with fewer): ratios of the primary "
    "figures over restarts, what was really reused or accepted (told twice: by the answers and by the "
    "engine's counters), and the verdict on the very tokens that the option had a hand in."
)
HEADERS = ("pair", "scenario", "what it brings", "reuse and acceptance", "affected tokens")


class Pair(NamedTuple):
    """One variant at one scenario against its partner."""

    row: Row
    partner: str
    """"" = it was measured alone."""
    contrasts: tuple[Contrast, ...]
    """Primary figures."""


def pairs(comparison: Comparison) -> list[Pair]:
    """In the order of the table; also rows without a partner that reused, drafted or were judged by turn."""
    found = []
    for row in comparison.rows:
        there = [r.variant for r in comparison.rows if r.scenario == row.scenario]
        partner = switches.partner(row.variant, there)
        if partner or row.reuse or (row.agreement and row.agreement.populations):
            mine = (c for c in comparison.contrasts if (c.scenario, c.variant) == (row.scenario, row.variant))
            found.append(Pair(row, partner, tuple(c for c in mine if c.primary and c.baseline == partner)))
    return found


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """Lines of the table under HEADERS."""
    return [
        (name(p), p.row.scenario, brings(p), reuse_text(p.row), "; ".join(populations(p.row)) or "-")
        for p in pairs(comparison)
    ]


def lines(comparison: Comparison) -> list[str]:
    """One per pair, for a terminal: what was reused or accepted, and the verdict on those tokens."""
    found = []
    for pair in pairs(comparison):
        parts = [
            part for part in (reuse_text(pair.row), "; ".join(populations(pair.row, parts=False))) if part
        ]
        if parts:
            kind = "pair " if pair.partner else ""
            found.append(f"{kind}{name(pair)} at {pair.row.scenario}: {'; '.join(parts)}")
    return found


def told_in_full(comparison: Comparison) -> list[str]:
    """The table's lines as sentences, for the log."""
    return [
        f"{one[0]} at {one[1]}: " + "; ".join(cell for cell in one[2:] if cell != "-" and cell)
        for one in rows(comparison)
    ]


def name(pair: Pair) -> str:
    """`vllm-cpu+prefix / vllm-cpu`."""
    return f"{pair.row.variant} / {pair.partner}" if pair.partner else pair.row.variant


def brings(pair: Pair) -> str:
    """Every primary figure: ratio, interval, and what is decided."""
    if not pair.partner:
        return "-"
    if not pair.row.rankable:
        return "not ranked"
    return ", ".join(_ratio(c) for c in pair.contrasts) or "no ratio"


def _ratio(contrast: Contrast) -> str:
    estimate = contrast.ratio
    if estimate is None:
        return f"{answer.name(contrast)} -"
    if estimate.num < 2:
        return f"{answer.name(contrast)} {estimate.mean:.2f}x (one restart)"
    word = "not decided"
    if decided(contrast):
        word = "better" if (estimate.mean > 1.0) != contrast.lower_is_better else "worse"
    return f"{answer.name(contrast)} {estimate.mean:.2f}x ({estimate.low:.2f}-{estimate.high:.2f}), {word}"


def reuse_text(row: Row) -> str:
    """What was reused and accepted; "" where nothing was."""
    return reuse.words(row.reuse) if row.reuse else ""


def populations(row: Row, *, parts: bool = True) -> Iterable[str]:
    """Verdicts on affected tokens and the others; without `parts`, of turns and positions only FAILs."""
    found: Sequence[Population] = row.agreement.populations if row.agreement else ()
    for one in found:
        if "," in one.name and not (parts or one.verdict == "FAIL"):
            continue
        size = f"{one.num_tokens} tokens of {one.num_requests} requests"
        noise = f", {one.noise_ratio:.2f} x rounding" if one.noise_ratio is not None else ""
        yield f"{one.verdict or 'not judged'} {one.name} ({size}{noise})"
