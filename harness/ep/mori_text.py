"""What MORI's two EP benches print, as KernelTiming; formats of ROCm/mori 624002c and of older commits.

tests/python/ops/bench_dispatch_combine.py (one node) and
examples/ops/dispatch_combine/test_dispatch_combine_internode.py (several nodes).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from harness.ep.timing import KernelTiming

_HEADER = re.compile(r"^Running \w+ with (max_tokens_per_rank: .*)")
_SECTION = re.compile(r"^\s*(Dispatch|Combine) result", re.IGNORECASE)
_ROUND = re.compile(
    r"^Round (\d+) duration\(us\) \[([^\]]*)\] bandwidth\(GB/s\) \[([^\]]*)\] "
    r"avg bytes\(MB\) (\S+) lat ([\d.]+) bw ([\d.]+) / ([\d.]+)"
)
_BEST = re.compile(
    r"^Best (Dispatch|Combine)\s+\((\w+)\): ([\d.]+) GB/s latency=([\d.]+) us at (block_num=\d+, \S+=\d+)"
)
_RECEIVED = re.compile(r"^rank (\d+) recv (\d+) tokens (\d+) rdma tokens")
_RANKS = re.compile(
    r"^\s*(?:(dispatch|combine) )?(duration|rdma bandwidth|bandwidth) \[([^\]]*)\] avg ([\d.]+) (µs|us|GB/s)"
)
_TITLE = re.compile(r"\|\s*(Dispatch|Combine) Performance(?: \((\w+)\))?")
_TOP_K = 8
"""num_experts_per_token as the script for several nodes sets it, whatever its command line says."""


def one_node(text: str) -> Iterator[KernelTiming]:
    """Rounds (latency and GB/s are means over ranks; of "bw A / B" A counts), and a tuning's best."""
    about: dict[str, str] = {}
    kernel = ""
    for line in map(str.strip, text.splitlines()):
        if match := _HEADER.match(line):
            about = dict(part.split(": ", 1) for part in match[1].split(", ") if ": " in part)
        elif match := _SECTION.match(line):
            kernel = match[1].lower()
        elif line.startswith("End-to-end"):
            kernel = ""
        elif kernel and (match := _ROUND.match(line)):
            ranks = len(match[2].replace(",", " ").split())
            yield _of_header(about, kernel, ranks, (float(match[5]), float(match[6]), f"round {match[1]}"))
        elif match := _BEST.match(line):
            kernel_of, note = match[1].lower(), f"best of the tuning at {match[5]}"
            yield _of_header(about, kernel_of, 0, (float(match[4]), float(match[3]), note))


def _of_header(
    about: dict[str, str], kernel: str, ranks: int, figures: tuple[float, float, str]
) -> KernelTiming:
    dispatched = about.get("dispatch_dtype", "")
    # Before the combine type was printed there was one for both.
    dtype = dispatched if kernel == "dispatch" else about.get("combine_dtype", dispatched)
    latency_us, gbps, note = figures
    settings = ["zero-copy"] if about.get("zero_copy") == "true" and kernel == "combine" else []
    if kernel == "combine" and about.get("quant_type", "none") != "none":
        settings.append(about["quant_type"])
    return KernelTiming(
        source="mori-text",
        kernel=kernel,
        tokens=int(about.get("max_tokens_per_rank", "0")),
        world_size=ranks or int(about.get("world_size(EP)", "0")),
        hidden=int(about.get("hidden_dim", "0")),
        dtype=dtype,
        latency_us=latency_us,
        gbps=gbps,
        note="; ".join([note, *settings]),
    )


@dataclass
class _Phase:
    """One round of dispatch or combine as it is read, line by line."""

    kernel: str
    duration: tuple[float, ...] = ()
    latency_us: float | None = None
    total: float | None = None
    rdma: float | None = None
    totals: tuple[float, ...] = ()


@dataclass
class _Output:
    """One bench's output on several nodes."""

    received: dict[int, tuple[int, int]] = field(default_factory=dict)
    """rank -> tokens received, RDMA tokens."""
    phases: list[_Phase] = field(default_factory=list)
    rows: list[tuple[str, str, list[str]]] = field(default_factory=list)
    """(kernel, dtype, cells of a table's row)."""
    columns: list[str] = field(default_factory=list)


def several_nodes(text: str) -> Iterator[KernelTiming]:
    """Rounds as means over ranks, then the tables' best, worst and average (which leave round 0 out).

    gbps is all received tokens x row bytes / time, RDMA and XGMI together. Where no RDMA bandwidth is
    printed, it is total x RDMA tokens / tokens of each rank (MORI-EP guide, section 9), mean over ranks.
    """
    read = _read(text)
    dtypes = {kernel: dtype for kernel, dtype, _ in read.rows}
    tokens, counts = _tokens(read), {"dispatch": 0, "combine": 0}
    for phase in read.phases:
        number, counts[phase.kernel] = counts[phase.kernel], counts[phase.kernel] + 1
        rdma, how = (phase.rdma, "") if phase.rdma is not None else _by_formula(phase, read)
        yield KernelTiming(
            source="mori-text internode",
            kernel=phase.kernel,
            tokens=tokens,
            world_size=len(phase.duration),
            dtype=dtypes.get(phase.kernel, ""),
            latency_us=phase.latency_us,
            gbps=phase.total,
            rdma_gbps=rdma,
            note="; ".join(filter(None, (f"round {number}", how, _share(read)))),
        )
    ranks = max((len(phase.duration) for phase in read.phases), default=len(read.received))
    for kernel, dtype, cells in read.rows:
        start = KernelTiming(
            source="mori-text internode", kernel=kernel, tokens=tokens, world_size=ranks, dtype=dtype
        )
        yield _of_table(start, read.columns, cells)


def _read(text: str) -> _Output:
    read, titled = _Output(), ("", "")
    for line in text.splitlines():
        if match := _RECEIVED.match(line.strip()):
            read.received[int(match[1])] = (int(match[2]), int(match[3]))
        elif match := _RANKS.match(line):
            _add(read.phases, match)
        elif match := _TITLE.search(line):
            titled = (match[1].lower(), match[2] or "")
        elif titled[0] and line.lstrip().startswith("|"):
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            if cells[0] == "Metrics":
                read.columns = cells
            elif cells[0] in ("Best", "Worst", "Average"):
                read.rows.append((*titled, cells))
    return read


def _add(phases: list[_Phase], line: re.Match[str]) -> None:
    """Older commits name the phase on its first line, "duration", only."""
    name, what, ranks, mean, _ = line.groups()
    values = tuple(float(value) for value in ranks.replace(",", " ").split())
    if what == "duration" and name:
        phases.append(_Phase(name, values, float(mean)))
    elif phases and what == "rdma bandwidth":
        phases[-1].rdma = float(mean)
    elif phases and what == "bandwidth":
        phases[-1].total, phases[-1].totals = float(mean), values


def _by_formula(phase: _Phase, read: _Output) -> tuple[float | None, str]:
    ranks = range(len(phase.totals))
    if not phase.totals or any(not read.received.get(rank, (0, 0))[0] for rank in ranks):
        return None, ""
    shares = (read.received[rank][1] / read.received[rank][0] for rank in ranks)
    of_ranks = [total * share for total, share in zip(phase.totals, shares, strict=True)]
    return sum(of_ranks) / len(of_ranks), "RDMA = total x RDMA tokens / tokens"


def _share(read: _Output) -> str:
    if not read.received:
        return ""
    tokens, rdma = (sum(pair[i] for pair in read.received.values()) / len(read.received) for i in (0, 1))
    return f"{tokens:.0f} tokens received, {rdma:.0f} by RDMA (mean of {len(read.received)} ranks)"


def _tokens(read: _Output) -> int:
    """Tokens per rank, which the script does not print: LL / XGMI bandwidth x (received + 1) / top-k.

    The script sets LL = XGMI x tokens x top-k / (tokens rank 0 received + 1). 0 where that is not said, or
    where the figures are too coarse to give a whole number.
    """
    if 0 not in read.received:
        return 0
    for _, _, cells in read.rows:
        row = dict(zip(read.columns, cells, strict=False))
        xgmi, ll = _number(row.get("XGMI Bandwidth (GB/s)")), _number(row.get("LL Bandwidth (GB/s)"))
        if not xgmi or not ll or "." not in row["LL Bandwidth (GB/s)"]:
            continue
        tokens = ll / xgmi * (read.received[0][0] + 1) / _TOP_K
        # Both figures are rounded to 0.01.
        uncertain = tokens * (0.005 / xgmi + 0.005 / ll)
        if uncertain < 0.4 and abs(tokens - round(tokens)) <= uncertain + 1e-6:
            return round(tokens)
    return 0


def _of_table(start: KernelTiming, columns: Sequence[str], cells: Sequence[str]) -> KernelTiming:
    row = dict(zip(columns, cells, strict=False))
    what = cells[0].lower()
    over = "mean over rounds and ranks" if what == "average" else f"{what} of any rank and round"
    return msgspec.structs.replace(
        start,
        latency_us=_number(row.get("Latency (us)")),
        gbps=_number(row.get("XGMI Bandwidth (GB/s)")),
        rdma_gbps=_number(row.get("RDMA Bandwidth (GB/s)")),
        note=f"table: {over}, without round 0",
    )


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None
