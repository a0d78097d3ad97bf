"""Whether the timed part was warm: its first half was no slower than its second. Pure.

The same rule for every engine: what one's log says of compilation, another's keeps to itself.

Halves are compared at equal work only: a gap between two chunks counts beside gaps with as many requests
generating, and with a prefill under way or not. Else the wave of prefills that opens a trial of long prompts,
or a load that grows, would pass for a cold engine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.escape import plain
from harness.numbers.columns import Columns, Floats
from harness.schema import RequestRecord

Ints = NDArray[np.integer]

COMPILING = re.compile(
    r"torch\.compile takes|Dynamo bytecode transform|Compiling (?:a )?(?:graph|model)|JIT[- ]?[Cc]ompil"
    r"|DeepGEMM.*(?:JIT|warmup)|[Aa]utotun|Captur(?:e|ing) .*graph|start build \[|\[aiter\].*(?:build|compil)"
    r"|hipcc|ninja: |[Tt]riton.*compil"
)
SLOWER = 1.25
"""Gap of the first half / second half, at equal work, above which the first was not warm."""
SIGNIFICANCE = 1e-3
NUM_SLICES = 40
"""Equal parts of the window; one median each, because gaps of one moment are not independent."""
MIN_SLICES = 8
"""Slices needed in each half."""
MIN_GAPS = 8
"""Gaps of one kind needed in each half; in a slice, a third of them."""


class _Gaps(NamedTuple):
    """Gaps between content chunks, seconds; when, as a share of the window; beside what work."""

    gap_s: Floats
    at: Floats
    work: Ints


def compiled(log_lines: Iterable[str]) -> str:
    """What an engine's log of the timed part says of compilation, as a note; "" when it says nothing."""
    line = next((line for line in log_lines if COMPILING.search(line)), "")
    return (
        f"the engine's log speaks of compilation during the timed part ({plain(line, 160)})" if line else ""
    )


def cold(table: Columns, records: Sequence[RequestRecord]) -> str:
    """Why the timed part was not warm; "" when nothing shows it, or nothing comparable was measured.

    `table` holds all its requests, `records` all or an even sample.
    """
    gaps = _gaps(table, records)
    return _faster_half(gaps) if gaps else ""


def _gaps(table: Columns, records: Sequence[RequestRecord]) -> _Gaps | None:
    ok = table.ok & np.isfinite(table.last_at_s)
    times = [np.asarray(r.content_at_s) for r in records if not r.error and len(r.content_at_s) > 1]
    if not ok.any() or not times:
        return None
    sent, first, last = (np.sort(x[ok]) for x in (table.sent_at_s, table.first_at_s, table.last_at_s))
    start, end = np.concatenate([t[:-1] for t in times]), np.concatenate([t[1:] for t in times])
    middle = (start + end) / 2
    generating = np.searchsorted(first, middle, "right") - np.searchsorted(last, middle, "left")
    beside_prefill = np.searchsorted(sent, end, "left") > np.searchsorted(first, start, "right")
    share = (middle - sent[0]) / max(float(last[-1] - sent[0]), 1e-9)
    return _Gaps(end - start, share, 2 * generating + beside_prefill)


def _faster_half(gaps: _Gaps) -> str:
    first, second = _slices(gaps)
    if min(first.size, second.size) < MIN_SLICES:
        return ""
    ratio = float(np.median(first) / np.median(second)) if np.median(second) > 0 else 1.0
    if ratio < SLOWER or _p_value(first, second) > SIGNIFICANCE:
        return ""
    return (
        f"the first half was slower: gaps between chunks {ratio:.2f}x those of the second half at equal load"
    )


def _slices(gaps: _Gaps) -> tuple[Floats, Floats]:
    """Median gap of each slice of either half, in units of the second half's gap at the same work."""
    early = gaps.at < 0.5
    relative = np.full(gaps.gap_s.size, np.nan)
    for work in np.unique(gaps.work):
        same = gaps.work == work
        late = gaps.gap_s[same & ~early]
        if min(late.size, int((same & early).sum())) >= MIN_GAPS and np.median(late) > 0:
            relative[same] = gaps.gap_s[same] / np.median(late)
    known = np.isfinite(relative)
    place = np.clip((gaps.at * NUM_SLICES).astype(np.int64), 0, NUM_SLICES - 1)
    halves: tuple[list[float], list[float]] = ([], [])
    for number in range(NUM_SLICES):
        inside = relative[known & (place == number)]
        if inside.size * 3 >= MIN_GAPS:
            halves[number >= NUM_SLICES // 2].append(float(np.median(inside)))
    return np.array(halves[0]), np.array(halves[1])


def _p_value(first: Floats, second: Floats) -> float:
    """Of "the first half is not slower" (Mann-Whitney)."""
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(first, second, alternative="greater").pvalue)
