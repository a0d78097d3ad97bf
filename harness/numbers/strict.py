"""strict=true: what a row must show, beyond being valid, to be ranked. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from harness.numbers import tails
from harness.schema import Row

RESTARTS = 3
LEAST_S = 60.0
"""Shortest timed part; MLPerf asks for 600 s or for early stopping, which certified tails are here."""


LIMITS = ("ttft_s", "tpot_s")
"""What an open loop must hold, jointly; a search looks for the rate that does."""


def reasons(row: Row, slo: Mapping[str, float]) -> str:
    """Why a finished row is not ranked under strict=true, "" when it is. `slo`: limit -> seconds."""
    found = [*_missing(row), *_limits(row, slo)]
    return f"strict: {'; '.join(found)}" if found else ""


def _missing(row: Row) -> Iterator[str]:
    num = row.output_throughput.num if row.output_throughput else 0
    if num < RESTARTS:
        yield f"{num} of at least {RESTARTS} restarts (repeats={RESTARTS})"
    if not row.attested:
        yield "its label is not proven"
    verdict = row.agreement.verdict if row.agreement else ""
    if verdict != "PASS":
        yield f"its output is not judged right ({verdict or 'not verified'})"
    if row.plateau is False:
        yield "not every trial of the scenario has a plateau (more requests: num_prompts=)"
    if row.metrics and row.metrics.window_s < LEAST_S:
        yield f"its timed part took {row.metrics.window_s:.0f} s of at least {LEAST_S:.0f} (num_prompts=)"
    if row.metrics and row.metrics.delivered:
        yield "its times are those of the delivery"
    lacking = max((tail.needed for tail in row.tails), default=0)
    if row.plateau is None and lacking:
        yield f"p{100 * row.tails[0].asked:g} is not certified: {lacking} requests more are needed"


def _limits(row: Row, slo: Mapping[str, float]) -> Iterator[str]:
    """MLPerf's server has a limit on TTFT and one on TPOT; here the same requests must meet both."""
    unset = [name for name in LIMITS if name not in slo]
    if row.ranked_by and unset:
        yield f"an open loop needs limits to hold ({' '.join(f'slo.{name}=' for name in unset)})"
    if row.within and not row.within.certified:
        held = " and ".join(f"{name} <= {limit:g}" for name, limit in slo.items())
        least = tails.required(row.within.asked)
        seen = f"{row.within.share:.1%} of {row.within.num} did"
        needs = (
            f"{least} without a miss are the fewest that can show it, and requests slow together count less"
        )
        yield f"{row.within.asked:.0%} of requests within {held} at once is not shown ({seen}; {needs})"
