"""Engines against each other: at equal attested precision they should be alike far from the reference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from harness.schema import Agreement, Row

FACTOR = 3.0
"""More than this between two engines is no rounding of either: healthy ones are within 1.5 of each other."""


def compared(rows: Sequence[Row], precision: dict[str, str]) -> tuple[Row, ...]:
    """The rows; one that passed FACTOR x as far from the reference as another is CANNOT TELL, both named.

    `precision`: variant -> what it attests of dtype, weights, keys and values; "" = nothing.
    """
    return tuple(_doubted(row, rows, precision) for row in rows)


def _doubted(row: Row, rows: Iterable[Row], precision: dict[str, str]) -> Row:
    own = row.agreement
    if own is None or own.verdict != "PASS":
        return row
    alike = [
        (_distance(other.agreement, own), other.variant)
        for other in rows
        if other.scenario == row.scenario
        and other.agreement
        and other.agreement.verdict == "PASS"
        and other.agreement.reference == own.reference
        and precision.get(other.variant, "") == precision.get(row.variant, "") != ""
        and other.variant != own.reference
    ]
    known = [(distance, name) for distance, name in alike if distance]
    mine = _distance(own, own)
    # Nearer than healthy output has to be: llama.cpp in float32 is 3.5e-6 nats off, vLLM 1.0e-6.
    if not known or not mine or mine <= max(FACTOR * min(known)[0], own.floor.get(_statistic(own), 0.0)):
        return row
    nearest, name = min(known)
    reason = (
        f"{row.variant} is {mine / nearest:.1f} x as far from the reference as {name}, which attests the "
        f"same precision ({mine:.3g} and {nearest:.3g}): one of them is not what it says; verify more"
    )
    doubted = msgspec.structs.replace(own, verdict="CANNOT TELL", reason=reason)
    return msgspec.structs.replace(row, agreement=doubted)


def _distance(agreement: Agreement | None, like: Agreement) -> float | None:
    """By the same statistic as `like`."""
    found = agreement.statistics.get(_statistic(like)) if agreement else None
    return found.mean if found else None


def _statistic(found: Agreement) -> str:
    """In roundings where they were played, else in nats."""
    return "noise_ratio" if "noise_ratio" in found.statistics else "mean_abs_dlogprob"
