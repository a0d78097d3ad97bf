"""The columns of the comparison's table, each a value that terminal, report.md, report.html and log read.

A new figure touches three places: a field of schema.Metrics, a line of numbers/metrics.py, a Column here.
Pure; nothing is escaped yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from harness.schema import Agreement, Distribution, Row

_DELIVERED = "delivered whole"
_FROM_DUE = "due_"
"""Begins the name of a latency that counts from when a request was due."""
_SEEN = 0.01
"""Share of its TTFT that a request must have waited to be sent before that is told."""


class Standing(NamedTuple):
    """A row within its scenario: what a cell may look at."""

    row: Row
    rank: int | None
    """None = not ranked."""
    best: float = 0.0
    """Most output tokens/s of its scenario's ranked rows; 0 when none is ranked."""


class Cell(NamedTuple):
    """What one column shows of one row."""

    text: str
    details: tuple[str, ...] = ()
    """What belongs to it: the figures behind a verdict, the marks of a label."""
    span: str = ""
    """Its interval and number of restarts."""
    brief: str | None = None
    """What a terminal shows of it; None = the text. A column with nothing to show there is left out."""
    badge: str = ""
    """A verdict: the page colours it."""
    share: float | None = None
    """Of the best in its scenario, 0..1: the page draws it as a bar."""

    @property
    def line(self) -> str:
        """All of it in one line."""
        whole = ", ".join((self.text, *self.details))
        return f"{whole} ({self.span})" if self.span else whole


class Column(NamedTuple):
    """One column of the table."""

    header: str
    cell: Callable[[Standing], Cell]
    meaning: str = ""
    """Its definition, printed in every report; "" where the header says it all."""
    term: str = ""
    """What `meaning` defines; "" = the header."""
    short: str = ""
    """Its header on 80 columns; "" = not shown there."""
    unit: str = ""
    numeric: bool = False
    measured: bool = False
    """It is struck out where the output is wrong."""
    grouped: bool = False
    """The same in all rows of a scenario: their heading, not a cell of each."""

    @property
    def title(self) -> str:
        """Header and unit."""
        return f"{self.header} {self.unit}".rstrip()


def standings(rows: Iterable[Row]) -> Iterator[tuple[str, list[Standing]]]:
    """Each scenario in order of appearance with its rows, best first, those that are not ranked last."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.scenario, []).append(row)
    for scenario, group in groups.items():
        good = sorted((row for row in group if row.rankable), key=merit, reverse=True)
        best = max(map(_throughput, good), default=0.0)
        ranked = [Standing(row, rank, best) for rank, row in enumerate(good, start=1)]
        yield scenario, ranked + [Standing(row, None, best) for row in group if not row.rankable]


def merit(row: Row) -> tuple[float, ...]:
    """What ranks a row within its scenario, more is better: its load's own figures, else output tokens/s.

    A row that shows none of its load's figures comes after those that do.
    """
    if row.ranked_by:
        return (1.0, *(-one.value if one.lower_is_better else one.value for one in row.ranked_by))
    return (0.0, _throughput(row))


def milliseconds(seconds: float | None) -> str:
    """Milliseconds with three significant digits, never in scientific notation; - for None."""
    return "-" if seconds is None else number(seconds * 1e3)


def number(value: float) -> str:
    """Three significant digits up to 1000, whole numbers above."""
    magnitude = abs(value)
    if magnitude >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if magnitude >= 10 else f"{value:.2f}"


def _throughput(row: Row) -> float:
    return row.output_throughput.mean if row.output_throughput else 0.0


def _latency(values: Distribution | None, row: Row, metric: str) -> Cell:
    """Median in milliseconds, and the highest percentile that as many requests certify."""
    if values is None:
        return Cell("-")
    if row.metrics and row.metrics.delivered:
        return Cell("-", (_DELIVERED,), brief="whole")
    return Cell(milliseconds(values.p50), tuple(_tail(values, row, metric)))


def _tail(values: Distribution, row: Row, metric: str) -> Iterator[str]:
    """What stands beside a median; a foreign result's p99 as its tool tells it."""
    tail = next((tail for tail in row.tails if tail.metric.removeprefix(_FROM_DUE) == metric), None)
    if tail is None:
        if not row.tails and values.p99 is not None:
            yield f"p99 {milliseconds(values.p99)}"
        return
    if tail.share > 0.5:
        due = " from due" * tail.metric.startswith(_FROM_DUE)
        yield f"p{100 * tail.share:g}{due} {milliseconds(tail.value)}"
    if tail.needed:
        yield f"p{100 * tail.asked:g} needs {tail.needed} more"


def _rank(standing: Standing) -> Cell:
    unsteady = "*" * (standing.row.plateau is False)
    return Cell(f"{standing.rank}{unsteady}" if standing.rank else "-")


def _rate(standing: Standing) -> Cell:
    rate = standing.row.output_throughput
    if rate is None:
        return Cell(standing.row.status, share=0.0)
    unsteady = "*" * (standing.row.plateau is False)
    share = rate.mean / standing.best if standing.rank and standing.best else 0.0
    if rate.num < 2:
        return Cell(number(rate.mean), brief=number(rate.mean) + unsteady, share=share)
    span = f"{number(rate.low)}-{number(rate.high)}, n={rate.num}"
    half = (rate.high - rate.mean) / rate.mean if rate.mean else 0.0
    brief = f"{number(rate.mean)}{unsteady} ±{half:.0%}"
    return Cell(number(rate.mean), span=span, brief=brief, share=share)


def _per_gpu(standing: Standing) -> Cell:
    row = standing.row
    if not row.output_throughput or row.num_gpus < 1:
        return Cell("-")
    return Cell(number(row.output_throughput.mean / row.num_gpus))


def _ttft(standing: Standing) -> Cell:
    row, m = standing.row, standing.row.metrics
    cell = _latency(m.ttft_s if m else None, row, "ttft")
    due, sent = m.due_ttft_s if m else None, m.ttft_s if m else None
    if not due or not sent or due.p50 is None or sent.p50 is None or not m or m.delivered:
        return cell
    waited = due.p50 > (1.0 + _SEEN) * sent.p50
    return cell._replace(details=(*cell.details, f"from due {milliseconds(due.p50)}")) if waited else cell


def _tpot(standing: Standing) -> Cell:
    m = standing.row.metrics
    return _latency(m.tpot_s if m else None, standing.row, "tpot")


def _failed(standing: Standing) -> Cell:
    m = standing.row.metrics
    if m is None:
        return Cell("-", brief="")
    told = f"{m.failed}/{m.completed + m.failed}"
    return Cell(told, brief=told if m.failed else "")


def _agreement(standing: Standing) -> Cell:
    found = standing.row.agreement
    if found is None:
        return Cell("not verified", badge="not verified")
    verdict = found.verdict or "not verified"
    return Cell(verdict, tuple(_figures(found)), badge=verdict)


def _figures(found: Agreement) -> Iterator[str]:
    """What the verdict rests on."""
    if found.token_match is not None:
        yield f"match {found.token_match:.1%}"
    if noise := found.statistics.get("noise_ratio"):
        yield f"{noise.mean:.2f} x rounding"
    elif found.mean_abs_dlogprob is not None:
        yield f"Δlogprob {found.mean_abs_dlogprob:.3f}"
    if "surprise" in found.sampler:
        yield f"sampler {found.sampler['surprise']:+.1f} sigma"
    if found.mean_margin is not None:
        yield f"margin {found.mean_margin:.3f}"
    if found.first_divergence is not None:
        yield f"forks at {found.first_divergence}"
    if found.alarms:
        yield f"{len(found.alarms)} alarm" + "s" * (len(found.alarms) > 1)


def _label(standing: Standing) -> Cell:
    """Whether the variant's name is proven, and the marks that travel with its numbers."""
    row = standing.row
    word: str = row.status
    if row.status == "done":
        word = "INVALID" if row.invalid else "proven" if row.attested else "unproven"
    reason = f": {row.invalid}" if word == "INVALID" else ""
    marks = row.labels if word == "proven" else (word, *row.labels)
    return Cell(word + reason, row.labels, brief=", ".join(marks))


COLUMNS = (
    Column(
        "#",
        _rank,
        "rank within the scenario: by output tok/s in a closed loop; where the load fixes the throughput, by "
        "the share of requests within the slo if there is one, then by E2EL p50 from due; of a search, by "
        "the rate; - = not ranked (FAIL, INVALID, or not done); * = a closed loop too short for a plateau, "
        "so that its ramps are part of the rate",
        numeric=True,
    ),
    Column("scenario", lambda s: Cell(s.row.scenario), short="scenario", grouped=True),
    Column("variant", lambda s: Cell(s.row.variant), short="variant"),
    Column(
        "output tok/s",
        _rate,
        "output tokens (the server's usage, else re-tokenized) of successful requests / (first sent -> "
        "last content); in brackets the 95 % t-interval over server restarts",
        short="tok/s",
        numeric=True,
        measured=True,
    ),
    Column(
        "per GPU",
        _per_gpu,
        "output tok/s / accelerators the variant uses; - on CPU",
        numeric=True,
        measured=True,
    ),
    Column(
        "TTFT p50",
        _ttft,
        "first chunk that carries generated content - sent; an empty role chunk is not a token; the median "
        "of the restarts' own. Beside it the highest percentile, up to the one asked for, that so many "
        "requests certify (99 % confidence, requests slow together counted less), and how many more the one "
        "asked for needs; - where answers arrived whole or in chunks of many tokens: those times are the "
        "delivery's, not the engine's",
        term="TTFT",
        short="TTFT ms",
        unit="ms",
        numeric=True,
        measured=True,
    ),
    Column(
        "TPOT p50",
        _tpot,
        "(last content - first content) / (output tokens - 1); undefined for one token; the median of the "
        "restarts' own",
        term="TPOT",
        short="TPOT ms",
        unit="ms",
        numeric=True,
        measured=True,
    ),
    Column(
        "failed",
        _failed,
        "requests that failed / all, of all restarts; they enter no latency and no throughput",
        short="failed",
        numeric=True,
        measured=True,
    ),
    Column(
        "agreement",
        _agreement,
        "the timed output, teacher-forced through the reference: share of tokens that are its own greedy "
        "choice, mean |difference of logprob| of emitted tokens, mean margin (reference's best logprob - "
        "emitted token's), median position where an output first forks; CANNOT TELL = not enough evidence",
        short="agreement",
    ),
    Column(
        "label",
        _label,
        "proven = the running engine shows every setting that the variant's name claims",
        short="label",
    ),
)
DEFINITIONS = tuple((column.term or column.header, column.meaning) for column in COLUMNS if column.meaning)
