"""Silences: moments in which no stream of an engine gets a chunk although several wait for one. Pure.

A scheduler that stops (a full collection of its garbage, a compilation, a prefill that lets nobody else on)
stops all streams at once. No percentile of single gaps shows it; the sum over a trial may be a fifth of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from harness.numbers.columns import Columns, Floats
from harness.schema import Silence, Silences

FEWEST = 4
"""Streams that must be between their first and last chunk: one stream's gap is not a silence."""
LONGEST_STEP = 4.0
"""Times the median gap of a stream that a step may take; beyond it nobody got anything."""
SHORTEST_S = 0.05
MOST_CHUNKS = 20_000_000
"""Beyond this a trial's chunks are not sorted: it would take a minute."""
_REGULAR = 0.2
"""Spread of the distances, relative to their median, up to which silences have a period."""
_MIN_DISTANCES = 3


class _Chunks(NamedTuple):
    """All chunks of a trial in the order of their arrival."""

    at_s: Floats
    tokens: Floats
    """Output tokens that had come by then; a stream's tokens are spread evenly over its chunks."""


def silences(table: Columns) -> Silences | None:
    """Those of one trial; None where fewer than FEWEST streams had two chunks, or chunks are too many.

    A stop through which a request waits for its first chunk is counted apart: its prefill may be the cause.
    """
    streams = table.ok & (table.num_chunks > 1)
    if streams.sum() < FEWEST or table.icl_s.size > MOST_CHUNKS:
        return None
    chunks = _chunks(table, streams)
    threshold = max(SHORTEST_S, LONGEST_STEP * float(np.median(table.icl_s)))
    first, last = np.sort(table.first_at_s[streams]), np.sort(table.last_at_s[streams])
    ends = np.flatnonzero(np.diff(chunks.at_s) > threshold) + 1
    before, after = chunks.at_s[ends - 1], chunks.at_s[ends]
    waiting = np.searchsorted(first, before, "right") - np.searchsorted(last, before, "right")
    sent = np.sort(table.sent_at_s[streams])
    prefill = np.searchsorted(sent, before, "right") > np.searchsorted(first, before, "right")
    stops, window_s = waiting >= FEWEST, float(chunks.at_s[-1] - table.sent_at_s[streams].min())
    found = tuple(
        Silence(float(at), float(length), float(tokens))
        for at, length, tokens in zip(
            before[stops & ~prefill],
            (after - before)[stops & ~prefill],
            chunks.tokens[ends - 1][stops & ~prefill],
            strict=True,
        )
    )
    total_s = sum(one.length_s for one in found)
    return Silences(
        threshold_s=threshold,
        total_s=total_s,
        share=total_s / window_s,
        prefill_share=float((after - before)[stops & prefill].sum()) / window_s,
        median_s=float(np.median([one.length_s for one in found])) if found else 0.0,
        period_s=_period([one.at_s for one in found]),
        period_tokens=_period([one.at_tokens for one in found]),
        found=found,
    )


def _chunks(table: Columns, streams: np.ndarray) -> _Chunks:
    num = table.num_chunks[streams]
    starts = np.concatenate([[0], np.cumsum(num)[:-1]])
    gaps = np.zeros(int(num.sum()))
    inner = np.ones(gaps.size, dtype=np.bool_)
    inner[starts] = False
    gaps[inner] = table.icl_s
    run = np.cumsum(gaps)
    times = run + np.repeat(table.first_at_s[streams] - run[starts], num)
    tokens = np.repeat(table.output_len[streams] / num, num)
    order = np.argsort(times, kind="stable")
    return _Chunks(times[order], np.cumsum(tokens[order]))


def _period(places: Sequence[float]) -> float | None:
    """Median distance between neighbours; None where distances are not alike, or are few."""
    distances = np.diff(places)
    if distances.size < _MIN_DISTANCES:
        return None
    middle = float(np.median(distances))
    spread = 1.4826 * float(np.median(np.abs(distances - middle)))
    return middle if spread <= _REGULAR * middle else None
