"""What trials said: one figure for each point that counts, a cause for each that does not. Pure."""

from __future__ import annotations

from harness.schema import Comparison, Contrast, Row
from harness.tune.campaign import Campaign, Objective, whole_point
from harness.tune.effects import Tried

_CAUSE = 90
"""Letters of a cause."""
_FIGURES = {"output_throughput": "output_throughput", "goodput": "goodput", "ttft": "due_ttft_p50"}
"""Objective -> the verdicts' figure for it (harness/numbers/figures.py)."""


def base_of(name: str) -> str:
    """The variant that a point is of."""
    return name.partition("~")[0]


def value(row: Row, objective: Objective) -> float | None:
    """The figure of a row, larger is better; None where it does not count: FAIL, invalid, failed."""
    if not row.rankable or row.metrics is None:
        return None
    if objective == "output_throughput":
        return row.output_throughput.mean / max(1, row.num_gpus) if row.output_throughput else None
    if objective == "goodput":
        return row.metrics.request_goodput or None
    first = row.metrics.due_ttft_s or row.metrics.ttft_s
    return 1.0 / first.p50 if first and first.p50 and not row.metrics.delivered else None


def why(row: Row) -> str:
    """Why a row does not count, in few words, the same for the same cause; "" when it does."""
    if row.wrong:
        return "FAIL: its output is wrong"
    if row.invalid:
        return _short(f"invalid: {row.invalid}")
    if row.status != "done":
        return _short(f"{row.status}: {row.reason.replace(row.variant, 'it')}")
    return "" if row.rankable else "no throughput"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _CAUSE else line[: _CAUSE - 3].rstrip() + "..."


def tried(campaign: Campaign, base: str, comparison: Comparison) -> dict[str, Tried]:
    """Every point of a variant that was measured, by name, in the order of the table."""
    return {
        row.variant: Tried(whole_point(campaign, base, row.variant), value(row, campaign.objective), why(row))
        for row in comparison.rows
        if base_of(row.variant) == base and row.status != "interrupted"
    }


def ranked(campaign: Campaign, comparison: Comparison) -> tuple[tuple[str, float], ...]:
    """(variant, figure) of the rows that count, the best first; what cannot be told right stands behind."""
    counted = [
        (row.agreement is None or row.agreement.verdict == "PASS", figure, row.variant)
        for row in comparison.rows
        if (figure := value(row, campaign.objective)) is not None
    ]
    return tuple(
        (name, figure)
        for _, figure, name in sorted(counted, key=lambda each: (each[0], each[1]), reverse=True)
    )


def contrast(campaign: Campaign, comparison: Comparison, variant: str) -> Contrast | None:
    """The verdict on a variant against the run's baseline, in the campaign's figure."""
    figure = _FIGURES[campaign.objective]
    chosen = (c for c in comparison.contrasts if c.variant == variant and c.metric == figure)
    return next(chosen, None)
