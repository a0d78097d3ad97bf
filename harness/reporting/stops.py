"""Silences of engines in words: moments in which no stream got a chunk although several waited. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from harness.reporting.cells import number
from harness.schema import Row, Silences

ABOUT = (
    "Moments in which no stream of an engine got a chunk although several waited for one; stops through "
    "which a request waited for its first chunk are a prefill that let nobody else on, and counted apart."
)
WORTH = 0.01
"""Share of the time from which on silences are told."""
WORTH_PREFILL = 0.1


def lines(rows: Iterable[Row]) -> list[str]:
    """One per row that has any worth telling."""
    told = ((row, _words(row.silences)) for row in rows if row.silences)
    return [f"{row.variant} at {row.scenario}: {words}" for row, words in told if words]


def _words(found: Silences) -> str:
    parts = []
    if found.share >= WORTH and found.found:
        num = len(found.found)
        many = f"{num} times, each about" if num > 1 else "once,"
        rate = f"its rate would read {1.0 / (1.0 - found.share):.2f}x without"
        when = f"{many} {found.median_s:.2g} s: {found.share:.0%} of the time{_period(found)}"
        parts.append(f"no stream got a chunk {when}; {rate}")
    if found.prefill_share >= WORTH_PREFILL:
        parts.append(f"all streams waited for a prefill {found.prefill_share:.0%} of the time")
    return "; ".join(parts)


def _period(found: Silences) -> str:
    """Every so many seconds or tokens, where distances are alike."""
    every = [f"{number(found.period_s)} s"] if found.period_s else []
    every += [f"{found.period_tokens:,.0f} tokens"] if found.period_tokens else []
    return f", every {' or '.join(every)}" if every else ""
