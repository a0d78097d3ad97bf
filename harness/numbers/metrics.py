"""Numbers of one trial from its records. Pure; definitions are those printed under every table.

A failed request counts as failed and enters nothing else. Rates are successful work over the window
first sent -> last content of the successful requests. Percentiles interpolate linearly (numpy).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from harness.errors import InputError
from harness.numbers import steady
from harness.numbers.columns import Columns, columns
from harness.schema import Distribution, Metrics, RequestRecord

LIMITS = ("ttft_s", "tpot_s", "e2el_s")
"""Latencies an SLO may limit."""


def metrics(records: Iterable[RequestRecord], slo: Mapping[str, float] | None = None) -> Metrics:
    """Metrics of records in memory; see `summarize`."""
    return summarize(columns(records), slo or {})


def summarize(table: Columns, slo: Mapping[str, float]) -> Metrics:
    """Metrics of one trial's columns; `slo` as in `meets`."""
    ok = table.ok
    start, end = window(table)
    window_s = end - start
    plateau = steady.steady(table)
    per_s = 1.0 / window_s if window_s > 0 else 0.0
    completed = int(ok.sum())
    num_input, num_output = int(table.input_len[ok].sum()), int(table.output_len[ok].sum())
    return Metrics(
        completed=completed,
        failed=int(ok.size) - completed,
        window_s=window_s,
        total_input_tokens=num_input,
        total_output_tokens=num_output,
        request_throughput=completed * per_s,
        output_throughput=num_output * per_s,
        total_token_throughput=(num_input + num_output) * per_s,
        request_goodput=int(meets(table, slo).sum()) * per_s if slo else None,
        steady_window_s=plateau.end_s - plateau.start_s if plateau else None,
        steady_output_throughput=plateau.output_throughput if plateau else None,
        ttft_s=distribution(table.ttft_s[ok]),
        tpot_s=distribution(table.tpot_s[ok]),
        icl_s=distribution(table.icl_s),
        e2el_s=distribution(table.e2el_s[ok]),
        schedule_delay_s=distribution(table.schedule_delay_s[ok]),
        due_ttft_s=distribution(table.due_ttft_s[ok]),
        due_e2el_s=distribution(table.due_e2el_s[ok]),
        whole_share=steady.whole(table),
        tokens_per_chunk=_tokens_per_chunk(table),
    )


def distribution(values: NDArray[np.floating]) -> Distribution | None:
    """Summary of the defined (finite) values; None when there are none."""
    finite = np.isfinite(values)
    defined = values if finite.all() else values[finite]
    if defined.size == 0:
        return None
    p50, p90, p95, p99 = (float(p) for p in np.percentile(defined, (50, 90, 95, 99)))
    return Distribution(
        count=int(defined.size),
        mean=float(defined.mean(dtype=np.float64)),
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        max=float(defined.max()),
    )


def over_restarts(restarts: Sequence[Metrics], middle: Metrics | None) -> Metrics | None:
    """What a row shows: `middle`, with each latency the median of the restarts' own and the failures of all.

    Where the load fixes the throughput, the restart in the middle of it is in the middle of nothing else.
    """
    if middle is None:
        return None
    latencies = {
        name: _over([seen for m in restarts if (seen := getattr(m, name)) is not None])
        for name, value in structs.asdict(middle).items()
        if isinstance(value, Distribution)
    }
    num = {name: sum(getattr(m, name) for m in restarts) for name in ("completed", "failed")}
    return structs.replace(middle, **latencies, **num)


def _over(seen: Sequence[Distribution]) -> Distribution:
    """Each statistic the median over restarts; None where a restart has none."""
    told = {name: [getattr(one, name) for one in seen] for name in Distribution.__struct_fields__}
    count = sum(told.pop("count"))
    return Distribution(
        count=count, **{n: None if None in v else float(np.median(v)) for n, v in told.items()}
    )


def _tokens_per_chunk(table: Columns) -> float | None:
    """Output tokens / content chunks of the successful requests; None without chunks."""
    chunks = int(table.num_chunks[table.ok].sum())
    return int(table.output_len[table.ok].sum()) / chunks if chunks else None


def window(table: Columns) -> tuple[float, float]:
    """First sent and last content of the successful requests, seconds; (0, 0) when there are none."""
    ends = table.last_at_s[table.ok]
    ends = ends[np.isfinite(ends)]
    return (float(table.sent_at_s[table.ok].min()), float(ends.max())) if ends.size else (0.0, 0.0)


def check_slo(slo: Mapping[str, float]) -> None:
    """Raises InputError for a limit on anything but LIMITS."""
    unknown = [name for name in slo if name not in LIMITS]
    if unknown:
        raise InputError(f"slo has no limit {unknown[0]!r}: write one of {', '.join(LIMITS)}, in seconds.")


def meets(table: Columns, slo: Mapping[str, float]) -> NDArray[np.bool_]:
    """[requests] Successful ones within every limit of `slo` (LIMITS -> seconds). Raises InputError.

    TTFT and E2EL count from when a request was due: having to wait before the send is part of what its user
    waits for. A TPOT that is undefined (one token) breaks no limit.
    """
    check_slo(slo)
    waited = np.maximum(table.schedule_delay_s, 0.0)
    good: NDArray[np.bool_] = table.ok & np.isfinite(table.last_at_s)
    for name, limit in slo.items():
        values: NDArray[np.float64] = getattr(table, name)
        good &= ~((values if name == "tpot_s" else values + waited) > limit)
    return good


def attained(table: Columns, slo: Mapping[str, float]) -> float:
    """Share of all requests, failed ones included, that met every limit; 0 for none. Raises InputError."""
    return float(meets(table, slo).mean()) if table.ok.size else 0.0
