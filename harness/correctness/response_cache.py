"""Does an endpoint answer a repeated prompt from memory, without generating? Asked of servers of others.

Prompts of a workload are seeded: every restart, and every run of the same recipe, sends them again, so that a
cache of answers would be measured instead of an engine. MLPerf looks for one with TEST04 (one sample over and
over); here each prompt is new, asked twice, and held against a neighbour, which begins alike and ends
otherwise: a prefix cache, which is honest, helps the neighbour as much as the repeat; a cache of answers does
not know it. One that takes similar prompts for the same knows both, and is not seen.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from harness import client
from harness.client import acceptance
from harness.client.body import Target
from harness.correctness.promises import RESPONSE_CACHE, Point
from harness.schema import Load, Prompts, Request, RequestRecord

ROUNDS, PROMPT_LEN, SHARED_LEN, OUTPUT_LEN = 4, 64, 48, 64
TIMES = 3.0
"""A repeat that takes less than the quickest neighbour by this factor was not decoded."""
CAUGHT = 2
"""Rounds: of several servers behind one address each may have a cache of its own."""
LEAST_S = 0.02
"""Quicker neighbours tell nothing: the rest of a request takes as long as its tokens."""
_TIMEOUT_S = 120.0
_IDS = range(100, 900)
"""Ids that every vocabulary has."""


class Round(NamedTuple):
    """One new prompt: its answer, its neighbour's, and its answer again."""

    first: RequestRecord
    neighbour: RequestRecord
    repeat: RequestRecord

    @property
    def answered(self) -> bool:
        """All three have content."""
        return all(not r.error and r.content_at_s for r in self)

    @property
    def same(self) -> bool:
        """The repeat is the first answer to the letter."""
        return self.repeat.text == self.first.text


def ask(target: Target, way: Prompts = "ids", dice: random.Random | None = None) -> Point:
    """Send ROUNDS x 3 small requests, one at a time. Prompts are of `dice`; no earlier run has sent them."""
    chosen = dice or random.SystemRandom()
    requests = [request for number in range(ROUNDS) for request in _round(number, way, chosen)]
    records: list[RequestRecord] = []
    alone = msgspec.structs.replace(target, timeout_s=_TIMEOUT_S, num_workers=1)
    client.fire(alone, tuple(requests), Load(max_concurrency=1), records.append)
    by_id = {record.request_id: record for record in records}
    ordered = [by_id[request.request_id] for request in requests]
    return judged([Round(*ordered[i : i + 3]) for i in range(0, len(ordered), 3)])


def judged(rounds: list[Round]) -> Point:
    """The promise, kept or not."""
    answered = [one for one in rounds if one.answered]
    least = min((_took(one.neighbour) for one in answered), default=0.0)
    quick = [one for one in answered if one.same and _took(one.repeat) * TIMES < least]
    repeated = min((_took(one.repeat) for one in answered), default=0.0)
    seen = f"a repeated prompt took {repeated:.3f} s at least, one that only begins alike {least:.3f} s"
    if not answered:
        seen = "nothing was answered"
    elif least < LEAST_S:
        seen += ": too quick to tell"
    return Point(
        name=RESPONSE_CACHE,
        held=least < LEAST_S or len(quick) < CAUGHT,
        found=seen,
        consequence="its answers come from a cache, or are guessed whole from earlier ones: restarts send "
        "the same prompts again, and would measure that",
    )


def _round(number: int, way: Prompts, dice: random.Random) -> Iterator[Request]:
    shared = dice.choices(_IDS, k=SHARED_LEN)
    new, neighbour = (tuple(shared + dice.choices(_IDS, k=PROMPT_LEN - SHARED_LEN)) for _ in range(2))
    for place, ids in enumerate((new, neighbour, new)):
        plain = Request(request_id=f"repeated-{number}-{place}", max_tokens=OUTPUT_LEN, ignore_eos=True)
        yield acceptance.asked(plain, ids, way)


def _took(record: RequestRecord) -> float:
    """Seconds from the send to the last content, per token: an answer may end early."""
    return (record.content_at_s[-1] - record.sent_at_s) / max(record.output_len, 1) * OUTPUT_LEN
