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
from scipy.special import stdtrit

from harness.correctness import divergence
from harness.correctness.divergence import Array
from harness.schema import Interval, Score

LIKE, LIKE_SMALL = 0.3, 0.1
"""More than this share of a fault, surely, is that fault; the second of a small one."""
SAME = 2.0
"""More of a fault than this is not that fault, and what may be more is not surely it."""
SMALL = 2.0
"""Roundings: a fault that moves a token by less loses some of its direction on its way through the layers."""
REAL, REAL_SMALL = 0.9, 0.25
"""What real faults show of what is played: lost experts 0.93 to 0.97; int8 weights least, 0.23 to 0.26."""
LEVEL, NORMAL = 0.99, 2.576
"""Two-sided level of the intervals, and its normal quantile."""
CLIP = 15.0
"""Median differences: a token further off says that something else happened there."""
SMALLEST_EFFECT = 0.02
"""Of the rounding: a fault that does less to these tokens does nothing here."""
ENOUGH_PROMPTS = 4
SMALLEST_DOUBT = 0.01
"""Below it the last digits of a logprob would be magnified."""


class Shown(NamedTuple):
    """How much of a fault an output shows."""

    share: Interval
    """0 = nothing of it, 1 = all that was played."""
    size: float
    """What it does to these tokens, in roundings."""

    @property
    def limit(self) -> float:
        """The share beyond which it is that fault."""
        return LIKE_SMALL if self.size < SMALL else LIKE

    @property
    def visible(self) -> bool:
        """Whether the real fault, less what 95 % of samples miss it by, would fail: normal quantiles."""
        sigma = (self.share.high - self.share.low) / (2 * NORMAL)
        real = REAL_SMALL if self.size < SMALL else REAL
        return real - (1.645 + NORMAL) * sigma > self.limit


class _Output(NamedTuple):
    """One output, one entry per token: changes of its logprob, nats, signed."""

    prompt: int
    difference: Array
    """Engine - reference."""
    rounding: Array
    faults: dict[str, Array]
    doubt: Array


def likeness(scores: Sequence[Score], seed: int) -> dict[str, Shown]:
    """Fault -> its coefficient with an interval over prompts; {} where nothing was played or compared."""
    parts = list(_columns(scores))
    sizes = _sizes(parts)
    names = sorted(sizes)
    grams, sides = _normal(parts, names)
    if not names or len(grams) < ENOUGH_PROMPTS:
        return {}
    num = len(grams)
    drawn = np.random.default_rng(seed).integers(0, num, size=(divergence.NUM_RESAMPLES, num))
    draws = _solved(grams[drawn].sum(1), sides[drawn].sum(1))
    means = _solved(grams.sum(0), sides.sum(0))
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    # A bootstrap over a handful of prompts is too sure of itself, as a normal quantile for Student's t is.
    wider = float(stdtrit(num - 1, (1 + LEVEL) / 2)) / NORMAL
    low, high = means - wider * (means - low), means + wider * (high - means)
    shares = [
        Interval(mean=float(m), low=float(lo), high=float(hi), num=num)
        for m, lo, hi in zip(means, low, high, strict=True)
    ]
    return {name: Shown(share, sizes[name]) for name, share in zip(names, shares, strict=True)}


def like(found: dict[str, Shown]) -> tuple[list[str], list[str]]:
    """Sentences for the faults that the output surely shows, and for those that it may show."""
    surely, perhaps = [], []
    for name, shown in found.items():
        share = shown.share
        words = f"as if with {name}: {share.mean:.0%} of what that does to these tokens"
        words += f" ({share.low:.0%} to {share.high:.0%})"
        if share.low > SAME:
            continue  # far more than this fault does is another one, which the noise ratio shows
        if shown.limit < share.low and share.high < SAME:
            surely.append(words)
        elif share.mean > 2 * shown.limit and share.low > 0:
            perhaps.append(words)
    return surely, perhaps


def seen(scores: Sequence[Score], found: dict[str, Shown], limit: float) -> dict[str, bool]:
    """Fault -> whether it would have failed with 95 %: by its own direction, or as noise beyond `limit`."""
    parts = list(_columns(scores))
    return {name: shown.visible or _loud(parts, name, limit) for name, shown in found.items()}


def _loud(parts: Sequence[_Output], name: str, limit: float) -> bool:
    """Whether rounding and the fault are beyond `limit` x the rounding, whichever prompts are drawn."""
    request = np.concatenate([np.full(len(p.rounding), p.prompt) for p in parts])
    noise = np.concatenate([p.rounding for p in parts])
    fault = np.concatenate([p.faults[name] for p in parts])
    sums = divergence.per_request(request, np.abs(noise + fault), np.abs(noise) + divergence.SMALLEST_NOISE)
    return float(np.quantile(divergence.resampled(sums, 0), (1 - LEVEL) / 2)) > limit


def _columns(scores: Sequence[Score]) -> Iterator[_Output]:
    """The outputs on which faults were played and whose logprobs the engine gave."""
    numbers: dict[object, int] = {}
    for s in scores:
        emitted = s.emitted_logprob
        if not (s.played and s.played.faults and emitted and any(emitted)) or s.error:
            continue
        if len(emitted) != len(s.token_ids):
            continue
        own = np.asarray(s.logprob)
        yield _Output(
            prompt=numbers.setdefault((s.request_id, s.prompt_token_ids), len(numbers)),
            difference=np.asarray(emitted) - own,
            rounding=np.asarray(s.played.logprob) - own,
            faults={name: np.asarray(f) for name, f in s.played.faults.items()},
            doubt=np.maximum(-np.expm1(np.minimum(own, 0.0)), SMALLEST_DOUBT),
        )


def _sizes(parts: Sequence[_Output]) -> dict[str, float]:
    """What the faults that every output has do to these tokens, in roundings; those of no effect left out."""
    if not parts:
        return {}
    names = set.intersection(*(set(p.faults) for p in parts))
    rounding = sum(float(np.abs(p.rounding).sum()) for p in parts) or 1.0
    sizes = {n: sum(float(np.abs(p.faults[n]).sum()) for p in parts) / rounding for n in names}
    return {name: size for name, size in sizes.items() if size > SMALLEST_EFFECT}


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
