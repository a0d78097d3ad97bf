"""How much each verdict rests on and what it would have seen, in words. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from harness.schema import Agreement, Row


def words(found: Agreement) -> str:
    """Tokens, effective tokens and power of one verdict."""
    worth = "" if found.num_effective is None else f", worth {found.num_effective:,} uncertain ones,"
    return f"{found.num_tokens:,} tokens{worth} {found.power or 'of unknown power'}"


def lines(rows: Sequence[Row]) -> list[str]:
    """One per row that was held against a reference."""
    return [
        f"{row.variant} at {row.scenario}: {words(row.agreement)}"
        for row in rows
        if row.agreement and row.agreement.num_tokens
    ]


def weakest(rows: Sequence[Row]) -> list[str]:
    """Of the rows that PASS the one with the fewest effective tokens; [] without any."""
    known = [
        (row.agreement.num_effective, row)
        for row in rows
        if row.agreement and row.agreement.verdict == "PASS" and row.agreement.num_effective is not None
    ]
    if not known:
        return []
    least = min(known, key=lambda pair: pair[0])[1]
    whose = "the PASS" if len(known) == 1 else f"of {len(known)} PASS the one on least evidence"
    return [f"{whose}: {line}" for line in lines([least])]
