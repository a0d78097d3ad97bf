"""A comparison's rows as text: the same cells in the terminal, in report.md, the HTML and the log. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from harness.schema import Agreement, Distribution, Interval, Row

HEADERS = (
    "#",
    "variant",
    "scenario",
    "output tok/s",
    "per GPU",
    "TTFT p50/p99 ms",
    "TPOT p50/p99 ms",
    "failed",
    "agreement",
    "label",
)
DEFINITIONS = (
    ("#", "rank by output tok/s within the scenario; - = not ranked (FAIL, INVALID, or not done)"),
    (
        "output tok/s",
        "output tokens (the server's usage, else re-tokenized) of successful requests / (first sent -> "
        "last content); in brackets the 95 % t-interval over server restarts",
    ),
    ("per GPU", "output tok/s / accelerators the variant uses; - on CPU"),
    ("TTFT", "first chunk that carries generated content - sent; an empty role chunk is not a token"),
    ("TPOT", "(last content - first content) / (output tokens - 1); undefined for one token"),
    ("failed", "requests that failed / all; they enter no latency and no throughput"),
    (
        "agreement",
        "the timed output, teacher-forced through the reference: share of tokens that are its own greedy "
        "choice, mean |difference of logprob| of emitted tokens, mean margin (reference's best logprob - "
        "emitted token's), median position where an output first forks; CANNOT TELL = not enough evidence",
    ),
    ("label", "proven = the running engine shows every setting that the variant's name claims"),
)


def ranked(rows: Iterable[Row]) -> list[tuple[int | None, Row]]:
    """Rows by scenario in order of appearance, best first, each with its rank; None = not ranked."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.scenario, []).append(row)
    result: list[tuple[int | None, Row]] = []
    for group in groups.values():
        good = sorted((row for row in group if row.rankable), key=_throughput, reverse=True)
        result += [(rank, row) for rank, row in enumerate(good, start=1)]
        result += [(None, row) for row in group if not row.rankable]
    return result


def cells(row: Row, rank: int | None) -> tuple[str, ...]:
    """One line of the table, a cell per entry of HEADERS; nothing is escaped yet."""
    m = row.metrics
    return (
        str(rank) if rank else "-",
        row.variant,
        row.scenario,
        _rate(row.output_throughput) if row.output_throughput else row.status,
        _per_gpu(row),
        latency(m.ttft_s if m else None),
        latency(m.tpot_s if m else None),
        f"{m.failed}/{m.completed + m.failed}" if m else "-",
        agreement(row.agreement),
        label(row),
    )


def latency(values: Distribution | None) -> str:
    """p50/p99 in milliseconds."""
    return f"{milliseconds(values.p50)}/{milliseconds(values.p99)}" if values else "-"


def milliseconds(seconds: float | None) -> str:
    """Milliseconds with three significant digits, never in scientific notation; - for None."""
    return "-" if seconds is None else number(seconds * 1e3)


def number(value: float) -> str:
    """Three significant digits up to 1000, whole numbers above."""
    magnitude = abs(value)
    if magnitude >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if magnitude >= 10 else f"{value:.2f}"


def agreement(found: Agreement | None) -> str:
    """Verdict with the figures behind it."""
    if found is None:
        return "not verified"
    parts: list[str] = [found.verdict or "not verified"]
    if found.token_match is not None:
        parts.append(f"match {found.token_match:.1%}")
    if found.mean_abs_dlogprob is not None:
        parts.append(f"Δlogprob {found.mean_abs_dlogprob:.3f}")
    if found.mean_margin is not None:
        parts.append(f"margin {found.mean_margin:.3f}")
    if found.first_divergence is not None:
        parts.append(f"forks at {found.first_divergence}")
    if found.alarms:
        parts.append(f"{len(found.alarms)} alarm" + "s" * (len(found.alarms) > 1))
    return ", ".join(parts)


def label(row: Row) -> str:
    """Whether the variant's name is proven, and the marks that travel with its numbers."""
    return ", ".join((_standing(row), *row.labels))


def _standing(row: Row) -> str:
    if row.status != "done":
        return row.status
    if row.invalid:
        return f"INVALID: {row.invalid}"
    return "proven" if row.attested else "unproven"


def _throughput(row: Row) -> float:
    return row.output_throughput.mean if row.output_throughput else 0.0


def _rate(rate: Interval) -> str:
    if rate.num < 2:
        return number(rate.mean)
    return f"{number(rate.mean)} ({number(rate.low)}-{number(rate.high)}, n={rate.num})"


def _per_gpu(row: Row) -> str:
    if not row.output_throughput or row.num_gpus < 1:
        return "-"
    return number(row.output_throughput.mean / row.num_gpus)
