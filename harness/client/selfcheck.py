"""The client's own error, measured before it measures an engine.

The client that fire() runs is pointed at a server whose receive and send times are in its answers, at the
rate and concurrency of the coming run, for about a second. What it gets wrong there it gets wrong anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from harness import client
from harness.client import known_server, pacing
from harness.client.known_server import Script
from harness.client.window import ClientStats, percentile
from harness.errors import InputError
from harness.schema import Load, Noun, Request, RequestRecord

F = TypeVar("F", int, float)
_NUM_TOKENS = 25
_TARGET_S = 1.0


class ErrorBudget(Noun):
    """What this client on this machine adds to what it measures. Seconds."""

    load: Load
    tokens_per_s: float
    ttft_error_p50_s: float
    ttft_error_p99_s: float
    icl_error_p50_s: float
    icl_error_p99_s: float
    late_p50_s: float
    late_p99_s: float
    cpu_share: float
    """CPU used of the cores the client has; 1 - cpu_share is its headroom."""
    num_workers: int
    num_failed: int
    client_bound: str = ""
    """Why trials at this load would measure the client; "" when they would not."""

    @property
    def words(self) -> str:
        """One line for people."""
        cores = "core" if self.num_workers == 1 else "cores"
        parts = (
            f"client error at {self.load.label}, {self.tokens_per_s:.0f} tokens/s: "
            f"TTFT {_ms(self.ttft_error_p50_s)} ms (p99 {_ms(self.ttft_error_p99_s)})",
            f"ICL {_ms(self.icl_error_p50_s)} (p99 {_ms(self.icl_error_p99_s)})",
            f"late {_ms(self.late_p50_s)} (p99 {_ms(self.late_p99_s)})",
            f"CPU {self.cpu_share:.0%} of {self.num_workers} {cores}",
        )
        failed = f"; {self.num_failed} requests FAILED" if self.num_failed else ""
        return (
            ", ".join(parts) + failed + (f"; CLIENT-BOUND: {self.client_bound}" if self.client_bound else "")
        )


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f}"


def run(
    rate: float | None, concurrency: int | None, num_workers: int = 1, gap_s: float = 0.01
) -> ErrorBudget:
    """Fire at a known server for about a second: open loop at `rate`, else closed at `concurrency`.

    `gap_s`: time between tokens of one stream, as the coming run would see it.
    """
    script = Script(first_token_s=0.05, token_s=gap_s, num_tokens=_NUM_TOKENS)
    lasts = script.first_token_s + gap_s * _NUM_TOKENS
    if rate:
        load = Load(request_rate=rate, arrival="constant", max_concurrency=concurrency)
        num = max(20, round(rate * _TARGET_S))
    else:
        load = Load(max_concurrency=concurrency or 1)
        num = (concurrency or 1) * max(2, round(_TARGET_S / lasts))
    due = pacing.due_times(load, num, 0)
    requests = [
        Request(request_id=f"check-{i}", prompt_token_ids=(i, 1, 2), max_tokens=_NUM_TOKENS, due_at_s=due[i])
        for i in range(num)
    ]
    records: list[RequestRecord] = []
    with known_server.running(script) as url:
        target = client.Target(base_url=url, model="known", num_workers=num_workers)
        stats = client.fire(target, requests, load, records.append)
    return judge(load, records, stats)


def from_words(words: Sequence[str]) -> list[ErrorBudget]:
    """`rate=20 concurrency=64 workers=2`; without rate and concurrency a small tour. Raises InputError."""
    given: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in ("rate", "concurrency", "workers") or not equals:
            raise InputError(f"selfcheck does not know {word!r}: it takes rate=, concurrency=, workers=")
        given[name] = value
    rate = _above_0(given, "rate", float) if "rate" in given else None
    concurrency = _above_0(given, "concurrency", int) if "concurrency" in given else None
    workers = _above_0(given, "workers", int) if "workers" in given else 1
    if rate is not None or concurrency is not None:
        return [run(rate, concurrency, workers)]
    return [run(20.0, None, workers), run(None, 64, workers)]


def _above_0(given: Mapping[str, str], name: str, kind: type[F]) -> F:
    words = f"selfcheck: {name}={given[name]}"
    try:
        value = kind(given[name])
    except ValueError as error:
        raise InputError(f"{words} is not a {'whole ' * (kind is int)}number") from error
    if value <= 0:
        raise InputError(f"{words} must be above 0")
    return value


def judge(load: Load, records: Sequence[RequestRecord], stats: ClientStats) -> ErrorBudget:
    """Compare records with the server's own times, which their text holds.

    An upper bound: that the server itself read a request late counts as the client's error.
    """
    ok = [r for r in records if not r.error]
    ttft: list[float] = []
    gaps: list[float] = []
    for record in ok:
        received, sends = server_times(record)
        seen = record.content_at_s
        ttft.append(seen[0] - record.sent_at_s - (sends[0] - received))
        gaps += [abs((b - a) - (y - x)) for a, b, x, y in zip(seen, seen[1:], sends, sends[1:], strict=False)]
    ttft.sort()
    gaps.sort()
    return ErrorBudget(
        load=load,
        tokens_per_s=sum(r.output_len for r in ok) / stats.duration_s if stats.duration_s else 0.0,
        ttft_error_p50_s=percentile(ttft, 50),
        ttft_error_p99_s=percentile(ttft, 99),
        icl_error_p50_s=percentile(gaps, 50),
        icl_error_p99_s=percentile(gaps, 99),
        late_p50_s=stats.late_p50_s,
        late_p99_s=stats.late_p99_s,
        cpu_share=stats.cpu_share,
        num_workers=stats.num_workers,
        num_failed=len(records) - len(ok),
        client_bound=stats.client_bound,
    )


def server_times(record: RequestRecord) -> tuple[float, list[float]]:
    """(received, sent times of the tokens) by the known server's clock, s."""
    words = record.text.split()
    received, _, first = words[0].partition(":")
    return int(received) * 1e-9, [int(first) * 1e-9, *(int(word) * 1e-9 for word in words[1:])]
