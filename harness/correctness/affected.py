"""The tokens that a cache or a draft had a hand in, judged as a population of their own. Pure.

A fault of the prefix cache or of a draft's verification spoils those tokens only, and in the mean over all
tokens healthy ones hide it. They are judged with the same limits as a whole row (agreement.judge), beside the
others, and again by turn of a conversation and by block of output positions. A row whose affected tokens fail
fails, whatever its mean says.

Behind a cache hit: all output of a request whose usage tells cached tokens. Accepted from a draft: of a chunk
with several token ids, which is one verification's, all but the last, which the model itself added; where an
engine sends every token alone, all output of a request that accepted any.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from harness.correctness import agreement
from harness.correctness.floors import MIN_REQUESTS, MIN_TOKENS, JudgeSettings
from harness.schema import Agreement, Played, Population, Request, RequestRecord, Score

Mask = npt.NDArray[np.bool_]

CACHED, DRAFTED, OTHERS = "behind a cache hit", "accepted from a draft", "the others"
EVERY = "all output"
EDGES = (0, 64, 128, 256, 512, 1024)
"""Blocks of output positions, whose tokens are judged alone where they are enough."""
LONGEST_RUN = 33
"""Tokens: a chunk with more is no single verification, but an answer that was delivered in lumps."""


class Output(NamedTuple):
    """One scored output and what its answer tells of caches and drafts."""

    score: Score
    record: RequestRecord
    turn: int = 0
    """Of its conversation, from 1; 0 = it is none."""


def conversations(requests: Sequence[Request], records: Mapping[str, RequestRecord]) -> dict[str, Request]:
    """Request id -> the request with everything its prompt carried: earlier turns and their answers.

    Where an earlier turn is missing the prompt stays short, and does not have the length that was sent.
    """
    history: dict[str, tuple[int, ...]] = {}
    found = {}
    for request in requests:
        own = request.prompt_token_ids
        if not request.session or own is None:
            found[request.request_id] = request
            continue
        whole = (*history.get(request.session, ()), *own)
        found[request.request_id] = msgspec.structs.replace(request, prompt_token_ids=whole)
        record = records.get(request.request_id)
        history[request.session] = (*whole, *((record and record.output_token_ids) or ()))
    return found


def turns(requests: Iterable[Request]) -> dict[str, int]:
    """Request id -> its turn, from 1, of the requests that are part of a conversation."""
    seen: dict[str, int] = {}
    found = {}
    for request in requests:
        if request.session:
            seen[request.session] = found[request.request_id] = seen.get(request.session, 0) + 1
    return found


def outputs(
    scores: Sequence[Score], records: Sequence[RequestRecord], turn: Mapping[str, int]
) -> list[Output]:
    """The scored outputs of one trial beside their records; those without a record are left out."""
    by_id = {r.request_id: r for r in records}
    return [
        Output(s, by_id[s.request_id], turn.get(s.request_id, 0))
        for s in scores
        if not s.error and s.token_ids and s.request_id in by_id
    ]


def populations(
    outputs: Sequence[Output], settings: JudgeSettings, *, drafting: bool
) -> tuple[Population, ...]:
    """The affected tokens of a row and the others, and their parts; without any, conversations by turn.

    `drafting`: the engine attests speculation; without it a chunk of several tokens is a mere delivery.
    """
    masks = [(CACHED, [cached(o) for o in outputs])]
    if drafting:
        masks.append((DRAFTED, [drafted(o) for o in outputs]))
    masks = [(name, mask) for name, mask in masks if any(m.any() for m in mask)]
    if not masks:
        every = [np.ones(len(o.score.token_ids), dtype=bool) for o in outputs]
        return tuple(_by_turn(EVERY, outputs, every, settings))
    found = []
    for name, mask in masks:
        found.append(_judged(name, outputs, mask, settings))
        found += _parts(name, outputs, mask, settings)
    rest = [~np.logical_or.reduce([mask[i] for _, mask in masks]) for i in range(len(outputs))]
    if any(m.any() for m in rest):
        found.append(_judged(OTHERS, outputs, rest, settings))
    return tuple(found)


def joined(whole: Agreement, parts: tuple[Population, ...]) -> Agreement:
    """The verdict of a row with its populations: it fails where affected tokens do."""
    bad = [p for p in parts if p.verdict == "FAIL" and p.name != OTHERS]
    if not bad or whole.verdict == "FAIL":
        return msgspec.structs.replace(whole, populations=parts)
    reason = "; ".join(f"tokens {p.name}: {p.reason}" for p in bad[:2])
    more = f"; {len(bad) - 2} more parts of them" if len(bad) > 2 else ""
    return msgspec.structs.replace(whole, verdict="FAIL", reason=reason + more, populations=parts)


def cached(output: Output) -> Mask:
    """One flag per token: behind a cache hit."""
    return np.full(len(output.score.token_ids), output.record.cached_len > 0)


def drafted(output: Output) -> Mask:
    """One flag per token: accepted from a draft."""
    mask = np.zeros(len(output.score.token_ids), dtype=bool)
    runs = [(first, num) for first, num in output.record.runs if 1 < num <= LONGEST_RUN]
    for first, num in runs:
        mask[first : first + num - 1] = True
    if not runs and output.record.accepted_len:
        mask[:] = True
    return mask


# --- judging ---------------------------------------------------------------------------------------


def _parts(
    name: str, outputs: Sequence[Output], mask: Sequence[Mask], settings: JudgeSettings
) -> Iterator[Population]:
    """By turn, and by block of output positions, where each part alone has tokens enough for a verdict."""
    yield from _by_turn(name, outputs, mask, settings)
    for first, end in pairwise((*EDGES, 1 << 30)):
        inside = [m & (np.arange(len(m)) >= first) & (np.arange(len(m)) < end) for m in mask]
        if sum(int(m.sum()) for m in inside) < sum(int(m.sum()) for m in mask):
            yield from _if_enough(f"{name}, from output position {first}", outputs, inside, settings)


def _by_turn(
    name: str, outputs: Sequence[Output], mask: Sequence[Mask], settings: JudgeSettings
) -> Iterator[Population]:
    for turn in sorted({o.turn for o in outputs} - {0}):
        inside = [m & (o.turn == turn) for o, m in zip(outputs, mask, strict=True)]
        yield from _if_enough(f"{name}, turn {turn}", outputs, inside, settings)


def _if_enough(
    name: str, outputs: Sequence[Output], mask: Sequence[Mask], settings: JudgeSettings
) -> Iterator[Population]:
    if sum(m.any() for m in mask) >= MIN_REQUESTS and sum(int(m.sum()) for m in mask) >= MIN_TOKENS:
        yield _judged(name, outputs, mask, settings)


def _judged(
    name: str, outputs: Sequence[Output], mask: Sequence[Mask], settings: JudgeSettings
) -> Population:
    scores = [part(o.score, m) for o, m in zip(outputs, mask, strict=True) if m.any()]
    found = agreement.judge(scores, (), settings=settings)
    noise = found.statistics.get("noise_ratio")
    return Population(
        name=name,
        verdict=found.verdict,
        reason=found.reason,
        num_requests=len(scores),
        num_tokens=sum(len(s.token_ids) for s in scores),
        token_match=found.token_match,
        noise_ratio=noise.mean if noise else None,
        mean_abs_dlogprob=found.mean_abs_dlogprob,
        power=found.power,
    )


def part(score: Score, mask: Mask) -> Score:
    """The score of the tokens for which the mask holds, in their order."""
    keep = [int(i) for i in np.flatnonzero(mask)]

    def cut(row: Sequence[float] | None) -> tuple[float, ...] | None:
        return tuple(row[i] for i in keep) if row is not None and len(row) == len(mask) else None

    played = score.played
    return msgspec.structs.replace(
        score,
        token_ids=tuple(score.token_ids[i] for i in keep),
        logprob=cut(score.logprob) or (),
        rank=tuple(score.rank[i] for i in keep),
        margin=cut(score.margin) or (),
        emitted_logprob=cut(score.emitted_logprob),
        top_logprobs=tuple(score.top_logprobs[i] for i in keep) if score.top_logprobs else (),
        emitted_top_logprobs=tuple(score.emitted_top_logprobs[i] for i in keep)
        if score.emitted_top_logprobs
        else (),
        played=played
        and Played(
            precision=played.precision,
            logprob=cut(played.logprob) or (),
            margin=cut(played.margin) or (),
            faults={fault: cut(row) or () for fault, row in played.faults.items()},
        ),
    )
