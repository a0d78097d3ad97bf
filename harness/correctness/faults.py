"""Named faults that the reference played on the tokens: is the engine like one, and would it have shown?

For each fault the reference gives the change f of every token's logprob; the engine differs from the
reference by d = c f + rounding. Least squares over all faults at once gives each c: what is left of rounding
averages out with the square root of the tokens, so that faults below the noise of one token are seen.

Rounding is not quite without direction (a bf16 engine looks 10 to 25 % like int8 weights): the reference's
own, n, does the same on the same tokens, so it is d - n that is explained. And a difference of logits moves a
logprob in proportion to the token's doubt, 1 - p: all are divided by it, so that tokens that are nearly
certain, as in loops, count too. c = 0: nothing of the fault; 1: this fault.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from harness.correctness import divergence
from harness.correctness.divergence import Array
from harness.schema import Interval, Score

LIKE = 0.3
"""More than this share of a fault, surely, is that fault; what tells less apart from nothing is noise."""
LEVEL = 0.99
"""Two-sided level of the intervals."""
CAUGHT = 0.95
"""What counts as "would have been seen"."""
CLIP = 15.0
"""Median differences: a token further off says that something else happened there."""
SMALLEST_EFFECT = 0.02
"""Of the rounding: a fault that does less to these tokens does nothing here."""
ENOUGH_PROMPTS = 4
SMALLEST_DOUBT = 0.01
"""Below it the last digits of a logprob would be magnified."""


class _Output(NamedTuple):
    """One output, one entry per token: changes of its logprob, nats, signed."""

    prompt: int
    difference: Array
    """Engine - reference."""
    rounding: Array
    faults: dict[str, Array]
    doubt: Array


def likeness(scores: Sequence[Score], seed: int) -> dict[str, Interval]:
    """Fault -> its coefficient with an interval over prompts; {} where nothing was played or compared."""
    parts = list(_columns(scores))
    names = _effective(parts)
    grams, sides = _normal(parts, names)
    if not names or len(grams) < ENOUGH_PROMPTS:
        return {}
    num = len(grams)
    drawn = np.random.default_rng(seed).integers(0, num, size=(divergence.NUM_RESAMPLES, num))
    draws = _solved(grams[drawn].sum(1), sides[drawn].sum(1))
    means = _solved(grams.sum(0), sides.sum(0))
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return {
        name: Interval(mean=float(means[i]), low=float(low[i]), high=float(high[i]), num=num)
        for i, name in enumerate(names)
    }


def like(found: dict[str, Interval]) -> tuple[list[str], list[str]]:
    """Sentences for the faults that the output surely shows, and for those that it may show."""
    surely, perhaps = [], []
    for name, share in found.items():
        words = f"as if with {name}: {share.mean:.0%} of what that does to these tokens"
        words += f" ({share.low:.0%} to {share.high:.0%})"
        if share.low > LIKE:
            surely.append(words)
        elif share.mean > 2 * LIKE:
            perhaps.append(words)
    return surely, perhaps


def seen(scores: Sequence[Score], found: dict[str, Interval], limit: float) -> dict[str, bool]:
    """Fault -> whether it would have failed with CAUGHT: by its own direction, or as noise beyond `limit`."""
    parts = list(_columns(scores))
    return {name: _directed(found[name]) or _loud(parts, name, limit) for name in found}


def _directed(share: Interval) -> bool:
    """Whether 1, less what 95 % of samples miss it by, has an interval above LIKE: normal quantiles."""
    sigma = (share.high - share.low) / (2 * 2.576)
    return 1.0 - 1.645 * sigma - 2.576 * sigma > LIKE


def _loud(parts: Sequence[_Output], name: str, limit: float) -> bool:
    """Whether rounding and the fault are beyond `limit` x the rounding, whichever prompts are drawn."""
    request = np.concatenate([np.full(len(p.rounding), p.prompt) for p in parts])
    noise = np.concatenate([p.rounding for p in parts])
    fault = np.concatenate([p.faults[name] for p in parts])
    sums = divergence.per_request(request, np.abs(noise + fault), np.abs(noise) + divergence.SMALLEST_NOISE)
    return float(np.quantile(divergence.resampled(sums, 0), (1 - LEVEL) / 2)) > limit


def _columns(scores: Sequence[Score]) -> Iterator[_Output]:
    """The outputs of which something was played and whose logprobs the engine gave."""
    numbers: dict[object, int] = {}
    for s in scores:
        emitted = s.emitted_logprob
        if s.error or s.played is None or not emitted or len(emitted) != len(s.token_ids) or not any(emitted):
            continue
        own = np.asarray(s.logprob)
        yield _Output(
            prompt=numbers.setdefault((s.request_id, s.prompt_token_ids), len(numbers)),
            difference=np.asarray(emitted) - own,
            rounding=np.asarray(s.played.logprob) - own,
            faults={name: np.asarray(f) for name, f in s.played.faults.items()},
            doubt=np.maximum(-np.expm1(np.minimum(own, 0.0)), SMALLEST_DOUBT),
        )


def _effective(parts: Sequence[_Output]) -> list[str]:
    """The faults that every output has and that do something to these tokens."""
    if not parts:
        return []
    names = set.intersection(*(set(p.faults) for p in parts))
    rounding = sum(np.abs(p.rounding).sum() for p in parts)
    effect = {name: sum(np.abs(p.faults[name]).sum() for p in parts) for name in names}
    return sorted(name for name in names if effect[name] > SMALLEST_EFFECT * rounding)


def _normal(parts: Sequence[_Output], names: Sequence[str]) -> tuple[Array, Array]:
    """Normal equations per prompt: [prompts, faults, faults] and [prompts, faults]."""
    if not names:
        return np.zeros((0, 0, 0)), np.zeros((0, 0))
    left = [(p.difference - p.rounding) / p.doubt for p in parts]
    clip = CLIP * float(np.median(np.abs(np.concatenate(left)))) or np.inf
    grams: dict[int, Array] = defaultdict(lambda: np.zeros((len(names), len(names))))
    sides: dict[int, Array] = defaultdict(lambda: np.zeros(len(names)))
    for part, target in zip(parts, left, strict=True):
        columns = np.clip(np.stack([part.faults[name] / part.doubt for name in names]), -clip, clip)
        grams[part.prompt] += columns @ columns.T
        sides[part.prompt] += columns @ np.clip(target, -clip, clip)
    return np.stack(list(grams.values())), np.stack(list(sides.values()))


def _solved(gram: Array, side: Array) -> Array:
    """Solutions [..., faults]; a draw in which a fault never shows gives it 0."""
    size = gram.shape[-1]
    ridge = 1e-9 * np.trace(gram, axis1=-2, axis2=-1)[..., None, None] + 1e-30
    solved: Array = np.linalg.solve(gram + ridge * np.eye(size), side[..., None])[..., 0]
    return solved
