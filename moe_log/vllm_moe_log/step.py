"""Which tokens of which requests a forward pass computes, in batch order. Plain values only."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Span(NamedTuple):
    """Consecutive tokens of one request. Token positions are start .. start + num_tokens - 1."""

    request_id: str
    start: int
    num_tokens: int
    prompt_len: int
    """Positions below it are prefill, the others decode."""


@dataclass(frozen=True)
class Step:
    """One forward pass over real requests."""

    number: int
    spans: tuple[Span, ...]
    at: float = field(default_factory=time.time)
    """Wall clock, seconds since the epoch."""

    @functools.cached_property
    def num_tokens(self) -> int:
        """Tokens of all spans, padding not counted."""
        return sum([span.num_tokens for span in self.spans])


def spans_of_runner(runner: Any, scheduler_output: Any) -> tuple[Span, ...]:
    """Spans from vLLM's first model runner (v1/worker/gpu_model_runner.py; also the CPU's), mid-step.

    Its input batch is in final order only once the forward pass runs, so this is called from there.
    """
    batch, scheduled = runner.input_batch, scheduler_output.num_scheduled_tokens
    names = batch.req_ids
    starts = batch.num_computed_tokens_cpu[: len(names)].tolist()
    prompt_lens = batch.num_prompt_tokens[: len(names)].tolist()
    nums = map(scheduled.get, names)
    every = map(Span._make, zip(names, starts, nums, prompt_lens, strict=True))
    return tuple(every) if len(names) == len(scheduled) else tuple(span for span in every if span.num_tokens)


def spans_of_batch(batch: Any) -> tuple[Span, ...]:
    """Spans from the InputBatch of vLLM's second model runner (v1/worker/gpu/model_runner.py).

    None = the step ended before it had a batch, as when no data-parallel rank has tokens.
    """
    if batch is None:
        return ()
    return tuple(
        Span(request_id, int(start), int(num), int(prompt_len))
        for request_id, start, num, prompt_len in zip(
            batch.req_ids,
            batch.num_computed_tokens_np,
            batch.num_scheduled_tokens,
            batch.prefill_len_np,
            strict=False,
        )
    )


@dataclass(frozen=True)
class Layout:
    """How a batch may be spread over ranks when the router sees it."""

    tokens_per_dp: Sequence[int] = ()
    """Tokens of each data-parallel rank (padding included), () without data parallelism."""
    shard_sizes: Sequence[int] = ()
    """Rows each rank contributed when sequence-parallel shards of all DP ranks were gathered."""
    dp_rank: int = 0


ALONE = Layout()
"""No data parallelism."""


def own_rows(num_rows: int, layout: Layout) -> tuple[int, int]:
    """(first row, rows) of this rank's tokens, padding included, among the rows its router sees.

    Rules as in vLLM's own routed-experts capture: rows may be all DP ranks' tokens one after another, all
    ranks' gathered shards, or this rank's own.
    """
    if layout is ALONE:
        return 0, num_rows
    if len(layout.tokens_per_dp) > 1 and num_rows == sum(layout.tokens_per_dp):
        return sum(layout.tokens_per_dp[: layout.dp_rank]), layout.tokens_per_dp[layout.dp_rank]
    if len(layout.shard_sizes) > 1 and num_rows == sum(layout.shard_sizes):
        per_rank = len(layout.shard_sizes) // max(1, len(layout.tokens_per_dp))
        first = layout.dp_rank * per_rank
        return sum(layout.shard_sizes[:first]), sum(layout.shard_sizes[first : first + per_rank])
    return 0, num_rows


def own_tokens(num_rows: int, num_tokens: int, tp_rank: int | None) -> tuple[int, int] | None:
    """(first token, tokens) that this rank's rows stand for in a step of num_tokens; None = cannot tell.

    tp_rank: this rank's place where sequence parallelism gives each tensor-parallel rank an equal run of the
    padded tokens; None where every rank sees all of them.
    """
    if not num_rows:
        return None
    if num_rows >= num_tokens:
        return (0, 0) if tp_rank else (0, num_tokens)
    if tp_rank is None:
        return None
    token = tp_rank * num_rows
    return token, max(0, min(num_rows, num_tokens - token))


def cut(spans: Sequence[Span], first: int, count: int) -> tuple[Span, ...]:
    """The spans' tokens first .. first + count - 1."""
    if first == 0 and count == sum([span.num_tokens for span in spans]):
        return tuple(spans)
    out, at = [], 0
    for span in spans:
        low, high = max(first, at), min(first + count, at + span.num_tokens)
        if low < high:
            out.append(Span(span.request_id, span.start + low - at, high - low, span.prompt_len))
        at += span.num_tokens
    return tuple(out)
