"""Whether a trial shows what it should: a plateau, a load that is served, a stream that streams. Pure."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from harness.numbers.columns import Columns
from harness.schema import WHOLE_SHARE, Load

PLATEAU = 0.9
"""Share of the most requests in flight from which on the load counts as up."""
MIN_TURNS = 3.0
"""Requests per slot needed for a plateau to mean anything."""
SERVED = 0.95
"""Served / offered request rate below which the engine is saturated."""
LUMP_TOKENS = 8
LUMP_SHARE = 0.02
"""Share of E2EL within which all chunks came: an answer held back and sent whole."""
MIN_OFFERED = 20
"""Requests needed to speak of a rate."""


class Steady(NamedTuple):
    """The plateau: seconds since the trial's start, and the output tokens/s in it."""

    start_s: float
    end_s: float
    output_throughput: float


def steady(table: Columns) -> Steady | None:
    """From the first to the last moment with PLATEAU of the most requests in flight; ramps are left out.

    A request's tokens count evenly between its first and last content. None for trials too short to have one.
    """
    ok = table.ok & np.isfinite(table.last_at_s)
    sent, first, last = table.sent_at_s[ok], table.first_at_s[ok], table.last_at_s[ok]
    if not sent.size:
        return None
    times = np.concatenate([last, sent])  # at equal times a request leaves before the next one starts
    order = np.argsort(times, kind="stable")
    in_flight = np.cumsum(np.concatenate([-np.ones(last.size), np.ones(sent.size)])[order])
    most = float(in_flight.max())
    if sent.size < MIN_TURNS * most:
        return None
    up = np.flatnonzero(in_flight >= PLATEAU * most)
    start, end = float(times[order][up[0]]), float(times[order][min(up[-1] + 1, times.size - 1)])
    if end <= start:
        return None
    spans = np.maximum(last - first, 1e-9)
    inside = np.clip(np.minimum(last, end) - np.maximum(first, start), 0.0, None) / spans
    whole = (last - first < 1e-9) & (first >= start) & (first <= end)
    tokens = float((table.output_len[ok] * np.where(whole, 1.0, inside)).sum())
    return Steady(start, end, tokens / (end - start))


def held_back(table: Columns) -> str:
    """Answers of many tokens whose chunks all came at once, in words; "" when there are few.

    Their TTFT and TPOT describe how the stream was delivered (a starved API server, a buffering proxy), not
    how tokens were generated.
    """
    lumps, long = _lumps(table)
    if not long or lumps <= WHOLE_SHARE * long:
        return ""
    return (
        f"{lumps} of {long} answers arrived whole instead of token by token; "
        "TTFT and TPOT show the delivery, not the generation"
    )


def whole(table: Columns) -> float:
    """Share of the answers of many tokens whose chunks all came at once."""
    lumps, long = _lumps(table)
    return lumps / long if long else 0.0


def _lumps(table: Columns) -> tuple[int, int]:
    """(those that came at once, all) answers of LUMP_TOKENS and more."""
    long = table.ok & (table.output_len >= LUMP_TOKENS)
    lumps = long & (table.last_at_s - table.first_at_s < LUMP_SHARE * table.e2el_s)
    return int(lumps.sum()), int(long.sum())


def saturation(table: Columns, load: Load) -> str:
    """Why the load was more than the engine serves; "" in a closed loop and when it kept up."""
    if load.arrival == "closed" and not load.request_rate:
        return ""
    due, ok = table.due_at_s, table.ok & np.isfinite(table.last_at_s)
    if due.size < MIN_OFFERED or not ok.any() or due.max() <= due.min():
        return ""
    offered = (due.size - 1) / float(due.max() - due.min())
    ends = np.sort(table.last_at_s[ok])
    served = (ends.size - 1) / float(ends[-1] - ends[0]) if ends[-1] > ends[0] else offered
    if served >= SERVED * offered:
        return ""
    return (
        f"saturated: {offered:.3g} requests/s offered, {served:.3g} served; "
        "its latencies grow with the length of the trial"
    )
