"""Is the engine's greedy output the same alone, again, and inside batches? Reported, not required.

Mixture-of-experts models under dynamic batching are not bit-stable even when healthy; how far they are from
it is the noise that agreement has to allow for.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import msgspec

from harness import client
from harness.client import acceptance
from harness.client.body import Target
from harness.correctness.promises import Pass
from harness.schema import Load, Prompts, Request, RequestRecord

BATCHES = (1, 1, 2, 8, 32)
"""Requests in flight of each pass: the others are compared with the first, the second is its repeat."""


NUM_IN_PREFLIGHT = 4
"""Few and short: what it costs comes on top of every server life."""
PROMPT_LEN, OUTPUT_LEN = 32, 16


def prompts(
    num: int, output_len: int = OUTPUT_LEN, *, logprobs: bool = False, way: Prompts = "ids"
) -> list[Request]:
    """Ids that every vocabulary has, different in each, or sentences; `logprobs` shows how they move."""
    plain = [Request(request_id=f"probe-{i}", max_tokens=output_len, logprobs=logprobs) for i in range(num)]
    numbers = [tuple(100 + (i * 37 + j * 11) % 800 for j in range(PROMPT_LEN)) for i in range(num)]
    return [acceptance.asked(r, n, way) for r, n in zip(plain, numbers, strict=True)]


def passes(target: Target, requests: Sequence[Request], batches: Sequence[int] = BATCHES) -> tuple[Pass, ...]:
    """The same requests once per batch size. The first pass is the yardstick and not returned."""
    alone = _fire(target, requests, batches[0])
    return tuple(_compare(alone, _fire(target, requests, n), n) for n in batches[1:])


def _fire(target: Target, requests: Sequence[Request], concurrency: int) -> list[RequestRecord]:
    greedy = [msgspec.structs.replace(r, temperature=0.0, due_at_s=0.0) for r in requests]
    records: dict[str, RequestRecord] = {}
    load = Load(max_concurrency=concurrency)
    client.fire(target, greedy, load, lambda r: records.__setitem__(r.request_id, r))
    return [records[r.request_id] for r in greedy]


def _compare(alone: Sequence[RequestRecord], others: Sequence[RequestRecord], concurrency: int) -> Pass:
    firsts = [_first_difference(a, b) for a, b in zip(alone, others, strict=True)]
    differing = [f for f in firsts if f is not None]
    moved = [
        abs(x - y)
        for a, b, end in zip(alone, others, firsts, strict=True)
        for x, y in zip((a.output_logprobs or ())[:end], (b.output_logprobs or ())[:end], strict=False)
    ]
    return Pass(
        concurrency=concurrency,
        num_requests=len(firsts),
        num_same=len(firsts) - len(differing),
        first_divergence=int(median(differing)) if differing else None,
        max_abs_dlogprob=max(moved, default=None),
    )


def _first_difference(a: RequestRecord, b: RequestRecord) -> int | None:
    """Output position (token, or character without ids); 0 when one of them failed; None when equal."""
    if a.error or b.error:
        return 0
    x, y = a.output_token_ids or a.text, b.output_token_ids or b.text
    if x == y:
        return None
    return next((i for i, (p, q) in enumerate(zip(x, y, strict=False)) if p != q), min(len(x), len(y)))
