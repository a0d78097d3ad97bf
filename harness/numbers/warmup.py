"""Whether the timed part was warm: no compilation in the engine's log, no faster second half. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from harness.numbers.columns import Columns, Floats
from harness.reporting.escape import plain

COMPILING = re.compile(
    r"torch\.compile takes|Dynamo bytecode transform|Compiling (?:a )?(?:graph|model)|JIT[- ]?[Cc]ompil"
    r"|DeepGEMM.*(?:JIT|warmup)|[Aa]utotun|Captur(?:e|ing) .*graph|start build \[|\[aiter\].*(?:build|compil)"
    r"|hipcc|ninja: |[Tt]riton.*compil"
)
SLOWER = 1.25
"""Median TPOT of the first half / second half above which the first was not warm."""
SIGNIFICANCE = 1e-3
MIN_REQUESTS = 8
"""Requests needed in each half."""


def cold(log_lines: Iterable[str], table: Columns, concurrency: int) -> str:
    """Why the timed part was not warm; "" when nothing shows it. `log_lines` were written during it.

    The first and last `concurrency` requests are left out of the halves: they run beside a burst of prefills
    or beside fewer neighbours than the others.
    """
    line = next((line for line in log_lines if COMPILING.search(line)), "")
    if line:
        return f"the engine still compiled during the timed part ({plain(line, 160)})"
    return _faster_half(table, concurrency)


def _faster_half(table: Columns, concurrency: int) -> str:
    order = np.argsort(table.sent_at_s[table.ok], kind="stable")
    tpot = table.tpot_s[table.ok][order][concurrency : len(order) - concurrency]
    tpot = tpot[np.isfinite(tpot)]
    first, second = tpot[: tpot.size // 2], tpot[tpot.size // 2 :]
    if first.size < MIN_REQUESTS:
        return ""
    ratio = float(np.median(first) / np.median(second)) if np.median(second) > 0 else 1.0
    if ratio < SLOWER or _p_value(first, second) > SIGNIFICANCE:
        return ""
    return f"the first half was slower: TPOT {ratio:.2f}x that of the second half"


def _p_value(first: Floats, second: Floats) -> float:
    """Of "the first half is not slower" (Mann-Whitney)."""
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(first, second, alternative="greater").pvalue)
