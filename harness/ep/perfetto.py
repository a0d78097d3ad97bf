"""Traces as time: per rank and phase, and as shares of dispatch, experts and combine."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Sequence

from harness.ep import spans
from harness.ep.spans import Span
from harness.errors import InputError
from harness.escape import plain

PARTS = ("dispatch", "experts", "combine", "collectives")
_PATTERNS = (
    # Attention's own combine (split KV) is none of ours.
    ("", r"flash|attn|attention|mha|mla_|splitk"),
    ("dispatch", r"dispatch"),
    ("combine", r"combine|cached_notify"),
    ("experts", r"m_grouped|moe_?(mx)?gemm|fused_?moe|fmoe|ck_?moe|fused_?experts|^experts$|moe_stage"),
    ("collectives", r"nccl|rccl|all_?gather|reduce_?scatter|all_?reduce|all_?to_?all|cross_device_reduce"),
)
"""By kernel or operator name, first match: MORI (EpDispatch..., dispatch_intra), DeepEP, whose kernels are
named internode::dispatch, vLLM and SGLang (fused_moe), AITER (fmoe, ck_moe), DeepGEMM (m_grouped)."""
_DOCUMENT = "mori-ep-architecture.md says: communication 10-15 % at high batch sizes"
_MOST_ROWS = 40


def run(files: Sequence[str]) -> str:
    """Table and shares of the files' traces. Raises InputError."""
    found = spans.read(files)
    if not found:
        raise InputError(
            f"{', '.join(files)}: no complete spans (ph X, or B with E): is it a Perfetto trace in JSON?"
        )
    return "\n".join([*_table(found), "", *_shares(found)])


def part(phase: str) -> str:
    """dispatch, experts, combine, collectives, or "" for the rest."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", phase).lower()
    return next((name for name, pattern in _PATTERNS if re.search(pattern, words)), "")


def _table(found: Sequence[Span]) -> list[str]:
    """Phases by the time they take, longest first, each with its ranks: the slowest shows as the largest."""
    took: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for span in found:
        took[span.phase][span.rank].append(span.took)
    totals = {phase: sum(map(sum, ranks.values())) for phase, ranks in took.items()}
    everything = sum(totals.values()) or 1.0
    longest = sorted(totals, key=lambda phase: -totals[phase])
    header = f"{'phase':<44}{'rank':<10}{'spans':>8}{'total us':>14}{'share':>8}{'median us':>12}"
    rows = [
        f"{plain(phase, 43):<44}{plain(rank, 9):<10}{len(each):>8}{sum(each):>14.1f}"
        f"{sum(each) / everything:>8.1%}{statistics.median(each):>12.2f}"
        for phase in longest
        for rank, each in sorted(took[phase].items())
    ]
    left = len(rows) - _MOST_ROWS
    return [header, *rows[:_MOST_ROWS], *([f"and {left} rows that took less"] if left > 0 else [])]


def _shares(found: Sequence[Span]) -> list[str]:
    """What each part covers of every rank's busy time; spans of many warps or streams count once."""
    of_rank: dict[str, list[Span]] = defaultdict(list)
    for span in found:
        of_rank[span.rank].append(span)
    lines = [f"{'rank':<10}{'busy us':>14}" + "".join(f"{name:>22}" for name in PARTS)]
    moe: list[tuple[float, float, float]] = []
    for rank, each in sorted(of_rank.items()):
        busy = spans.covered((span.start, span.end) for span in each)
        by_part = {name: [(s.start, s.end) for s in each if part(s.phase) == name] for name in PARTS}
        cells = "".join(_cell(spans.covered(by_part[name]), busy) for name in PARTS)
        lines.append(f"{plain(rank, 9):<10}{busy:>14.1f}{cells}")
        moved = spans.covered([*by_part["dispatch"], *by_part["combine"]])
        layer = spans.covered([*by_part["dispatch"], *by_part["combine"], *by_part["experts"]])
        moe.append((moved, layer, busy) if by_part["experts"] else (0.0, 0.0, busy))
    return [*lines, *_communication(moe, found)]


def _cell(took: float, busy: float) -> str:
    return f"{took:.1f} us {took / busy if busy else 0:.1%}".rjust(22) if took else "-".rjust(22)


def _communication(moe: Sequence[tuple[float, float, float]], found: Sequence[Span]) -> list[str]:
    moved, layer, busy = (sum(column) for column in zip(*moe, strict=True))
    if layer and moved:
        return [
            f"communication (dispatch, combine) is {moved / layer:.1%} of the MoE layers' time (with "
            f"experts), {moved / busy:.1%} of all busy time; {_DOCUMENT}"
        ]
    kinds = {part(span.phase) for span in found}
    if kinds & {"dispatch", "combine"}:
        return [
            "the trace holds dispatch and combine but no experts, so their share of a MoE layer is not in "
            "it: profile a serving engine (just bench of a variant named -trace)"
        ]
    if kinds >= {"experts", "collectives"}:
        return [
            "no phase is named dispatch or combine; collectives carry them under allgather_reducescatter, "
            "and tensor parallelism's sums as well, so their column is the most that communication can be"
        ]
    return ["no phase is named like dispatch or combine of expert parallelism"]
