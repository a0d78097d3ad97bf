"""The verdict on sampled output, without a second generation: is it what a true sampler draws from p?

p is what the reference says at each token under the engine's own text, processed as asked. Of a true sampler
the sum of -log p(x) - H(p) is 0 in the mean with a known variance, the place of a token in p's distribution
function is uniform, other requests' tokens turn up as often as p says, and outputs end when p's end tokens
say so: sums of differences whose means are 0 given all before (martingales). A named fault's likelihood ratio
is 1 in the mean, so that it exceeds 10^6 with probability 10^-6 at most (Ville's inequality).
docs/SAMPLING.md explains the choices and shows what they catch.
"""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import kolmogorov, pdtr, pdtrc

from harness.correctness.divergence import Array
from harness.schema import Drawn, Score

FAIL, DOUBT = 5.0, 4.0
"""Standard deviations; with probability 6e-7 and 6e-5 by luck."""
FAIL_REQUEST = 7.0
"""Of a single request: there are many, and their sums are not quite normal."""
CHANCE, SUSPICION = 1e-6, 1e-4
"""The same of counts and of uniformity."""
MIN_VARIANCE = 10.0
"""Nats^2: less in all says nothing, and its sums are not normal."""
MIN_REQUEST_VARIANCE = 20.0
DRIFT = 0.001
"""Nats per token by which rounding may shift -log p in the mean, where no precision was played."""
DRIFT_ERRORS = 3.0
STRAYS, SMALLEST_STRAYS = 4.0, 2e-4
"""Tokens beyond what p allows: so many times what rounding explains are explained, and so large a share."""
BEGINNING, REPEATED = 16, 0.25
"""Tokens that tell restarts apart, and the share of requests in which they may begin alike by luck."""
IMPOSSIBLE = -1000.0
"""Nats: what p does not allow is said to be -9999."""
ORDERS = (("likeliest first", "low", "high"), ("by id", "low_by_id", "high_by_id"))
"""Orders of the vocabulary that a token has a cell in."""
UNEVEN = 0.003
"""Distance of distribution functions that rounding may make."""
BENDS = {"low": 1.1, "high": 1 / 1.1}
"""A generator whose uniform numbers u come as u to this power, by where they crowd."""
NARROW = 1e-6
"""Width of a cell below which it is a point."""
GROSS_NOISE, GROSS_SHARE, OTHER_NOISE = 0.25, 2e-3, 0.5
"""Nats by which rounding does not change which token is largest with the engine's noise; the share of tokens
that may; from this part of what another seed's noise shows on, the engine's noise is another one."""


class Tested(NamedTuple):
    """Sentences for what surely is no true sampler's and for what may be luck; tests' figures; the power."""

    surely: list[str]
    perhaps: list[str]
    figures: dict[str, float]
    power: str


NOTHING = Tested([], [], {}, "")
"""Of greedy output."""


class _Finding(NamedTuple):
    name: str
    figure: float
    words: str
    level: int
    """0 = as a true sampler, 1 = perhaps not, 2 = surely not."""


def tested(scores: Sequence[Score]) -> Tested:
    """All tests of the outputs whose distributions the reference gave."""
    known = _independent([s for s in scores if s.drawn and not s.error and not s.retokenised])
    parts = [s.drawn for s in known if s.drawn]
    if not parts:
        told = "the reference could not say what the tokens were drawn from: the sampler was not judged"
        return Tested([], [], {}, told)
    found = [
        *_surprise(parts),
        *_single(known),
        *_beyond(parts),
        *_uniform(known),
        *_bent(parts),
        *_meetings(parts),
        *_alike(known),
        *_endings(parts),
        *_noise(parts),
        *_faults(parts),
    ]
    return Tested(
        [f.words for f in found if f.level == 2],
        [f.words for f in found if f.level == 1],
        {f.name: f.figure for f in found},
        _power(parts),
    )


def _independent(scores: list[Score]) -> list[Score]:
    """All, or each request's first where restarts begin alike: engines that start from one seed repeat it."""
    lives: dict[object, list[Score]] = defaultdict(list)
    for score in scores:
        lives[score.request_id, score.prompt_token_ids].append(score)
    several = [outputs for outputs in lives.values() if len(outputs) > 1]
    alike = sum(len({s.token_ids[:BEGINNING] for s in outputs}) < len(outputs) for outputs in several)
    return [outputs[0] for outputs in lives.values()] if alike > REPEATED * len(several) else scores


def _column(parts: Sequence[Drawn], name: str) -> Array:
    return np.concatenate([np.asarray(getattr(p, name), dtype=np.float64) for p in parts] or [np.zeros(0)])


def _allowed(logprob: Array) -> npt.NDArray[np.bool_]:
    """Whether p allows the token."""
    allowed: npt.NDArray[np.bool_] = logprob > IMPOSSIBLE
    return allowed


def _level(size: float, fail: float, doubt: float) -> int:
    return 2 if size > fail else 1 if size > doubt else 0


# --- the tests -----------------------------------------------------------------------------------


def _surprise(parts: Sequence[Drawn]) -> Iterator[_Finding]:
    """The standardised sum of -log p - H over all tokens, and over blocks of output positions."""
    position = np.concatenate([np.arange(len(p.logprob)) for p in parts])
    allowed, deviation, variance = _deviations(parts)
    allowance = _drift(parts)
    edges = [0, 32]
    while edges[-1] <= position.max(initial=0):
        edges.append(edges[-1] * 2)
    blocks = [(0, edges[-1], "surprise"), *((a, b, f"surprise at {a}-{b - 1}") for a, b in pairwise(edges))]
    for first, end, name in blocks:
        here = allowed & (position >= first) & (position < end)
        if variance[here].sum() < MIN_VARIANCE:
            continue
        z = _standardised(deviation[here], variance[here], allowance)
        way = "less likely" if z > 0 else "likelier"
        words = f"{name}: tokens are {way} than drawn ones, {abs(z):.1f} standard deviations"
        yield _Finding(name, z, words, _level(abs(z), FAIL, DOUBT))


def _deviations(parts: Sequence[Drawn]) -> tuple[npt.NDArray[np.bool_], Array, Array]:
    logprob = _column(parts, "logprob")
    return _allowed(logprob), -logprob - _column(parts, "entropy"), _column(parts, "variance")


def _standardised(deviation: Array, variance: Array, allowance: float) -> float:
    total = float(deviation.sum())
    beyond = max(abs(total) - allowance * len(deviation), 0.0)
    return math.copysign(beyond, total) / math.sqrt(max(float(variance.sum()), 1e-12))


def _drift(parts: Sequence[Drawn]) -> float:
    """Nats per token that rounding may shift the mean by: what the played precision says, and 3 errors."""
    drift = _column(parts, "drift")
    if len(drift) < 2:
        return DRIFT
    return abs(float(drift.mean())) + DRIFT_ERRORS * float(drift.std()) / math.sqrt(len(drift))


def _single(scores: Sequence[Score]) -> Iterator[_Finding]:
    """The request that is furthest off."""
    worst, name = 0.0, ""
    for score in scores:
        assert score.drawn is not None
        allowed, deviation, variance = _deviations([score.drawn])
        if variance[allowed].sum() >= MIN_REQUEST_VARIANCE:
            z = _standardised(deviation[allowed], variance[allowed], DRIFT)
            if abs(z) > abs(worst):
                worst, name = z, score.request_id
    if name:
        words = f"request {name} alone: {abs(worst):.1f} standard deviations from drawn tokens' surprise"
        yield _Finding("worst request", worst, words, 2 * (abs(worst) > FAIL_REQUEST))


def _explained(parts: Sequence[Drawn]) -> float:
    """Tokens beyond what p allows, room at its edges included, that rounding explains."""
    stray = _column(parts, "stray")
    rate = float(stray.mean()) if len(stray) else 0.0
    return (STRAYS * rate + SMALLEST_STRAYS) * sum(len(p.logprob) for p in parts)


def _beyond(parts: Sequence[Drawn]) -> Iterator[_Finding]:
    beyond = _column(parts, "beyond")
    count, explained = float(beyond.sum()), _explained(parts)
    words = (
        f"{count:.0f} of {len(beyond)} tokens are none that top_k, top_p and min_p leave (rounding explains "
        f"{explained:.1f})"
    )
    yield _Finding("beyond", count, words, _rare(_more(count, explained)))


def _more(count: float, mean: float) -> float:
    """Poisson probability of so many or more."""
    return float(pdtrc(count - 1, mean)) if count > 0 else 1.0


def _rare(probability: float) -> int:
    return 2 if probability < CHANCE else 1 if probability < SUSPICION else 0


def _uniform(scores: Sequence[Score]) -> Iterator[_Finding]:
    """A token's place in its cell is drawn, seeded by the request: over all tokens uniform on [0, 1)."""
    for name, low, high in ORDERS:
        places = np.concatenate([_placed(score, low, high) for score in scores])
        places = places[~np.isnan(places)]
        if len(places) < 100:
            continue
        places.sort()
        steps = np.arange(len(places) + 1) / len(places)
        distance = float(max((steps[1:] - places).max(), (places - steps[:-1]).max()))
        chance = float(kolmogorov(math.sqrt(len(places)) * max(distance - UNEVEN, 0.0)))
        z = _off_centre([s.drawn for s in scores if s.drawn], low, high)
        words = (
            f"uniformity, {name}: tokens lie {distance:.3f} off (Kolmogorov-Smirnov p = {chance:.2g}), their "
            f"middles {z:+.1f} standard deviations"
        )
        level = max(_rare(chance), _level(abs(z), FAIL, DOUBT))
        yield _Finding(f"uniform {name}", z, words, level)


def _off_centre(parts: Sequence[Drawn], low: str, high: str) -> float:
    """Standard deviations by which the middles of the tokens' cells miss 1/2: exact, nothing is drawn."""
    allowed = _allowed(_column(parts, "logprob"))
    off = ((_column(parts, low) + _column(parts, high)) / 2 - 0.5)[allowed]
    variance = float(((1 - _column(parts, "cubes")[allowed]) / 12).sum())
    return _standardised(off, np.full(len(off), variance / max(len(off), 1)), UNEVEN / 2)


def _bent(parts: Sequence[Drawn]) -> Iterator[_Finding]:
    """Log-likelihood ratio of cells under a bent uniform number: as a named fault's, 1 in the mean."""
    allowed = _allowed(_column(parts, "logprob"))
    for name, low, high in ORDERS:
        first, last = (_column(parts, side)[allowed].clip(0.0, 1.0) for side in (low, high))
        width, middle = last - first, ((first + last) / 2).clip(NARROW, 1.0)
        for where, power in BENDS.items():
            share = last ** (1 / power) - first ** (1 / power)
            point = middle ** (1 / power - 1) / power
            wide = width > NARROW
            ratio = float(np.log(np.where(wide, share / np.where(wide, width, 1.0), point)).sum())
            words = (
                f"as if the random generator were bent to {where} numbers ({name}): "
                f"10^{ratio / math.log(10):.0f} times as likely as drawn as asked"
            )
            level = _level(ratio, -math.log(CHANCE), -math.log(SUSPICION))
            yield _Finding(f"bent {where} {name}", ratio, words, level)


def _placed(score: Score, low: str, high: str) -> Array:
    """A place drawn in each token's cell; NaN where p does not allow the token."""
    assert score.drawn is not None
    first, last = (np.asarray(getattr(score.drawn, side)) for side in (low, high))
    seed = zlib.crc32(f"{score.request_id} {score.token_ids}".encode())
    places: Array = first + (last - first) * np.random.default_rng(seed).random(len(first))
    return np.where(_allowed(np.asarray(score.drawn.logprob)), places, np.nan)


def _meetings(parts: Sequence[Drawn]) -> Iterator[_Finding]:
    """Tokens that another request said at the same position, against their probability given all others."""
    met, meets = _column(parts, "met"), _column(parts, "meets")
    variance = float((met * (1 - met)).sum())
    if variance >= MIN_VARIANCE:
        z = float((meets - met).sum()) / math.sqrt(variance)
        words = (
            f"requests say the same at the same position {meets.sum():.0f} times where {met.sum():.0f} are "
            f"expected ({z:+.1f} standard deviations): they share their randomness"
        )
        yield _Finding("same as others", z, words, _level(abs(z), FAIL, DOUBT))


def _alike(scores: Sequence[Score]) -> Iterator[_Finding]:
    """Places of requests at one position are independent: of pairs, products have mean 0, variance 1/144."""
    for name, low, high in ORDERS:
        drawn = [_placed(score, low, high) for score in scores]
        length = max(len(row) for row in drawn)
        rows = np.full((len(drawn), length), np.nan)
        for row, places in zip(rows, drawn, strict=True):
            row[: len(places)] = places
        # About their own mean: another distribution than p is no shared randomness.
        rows -= np.nanmean(rows)
        known = (~np.isnan(rows)).sum(0)
        pairs = float((known * (known - 1) / 2).sum())
        if pairs < 1000:
            continue
        products = (np.nansum(rows, 0) ** 2 - np.nansum(rows**2, 0)).sum() / 2
        z = float(products) * 12 / math.sqrt(pairs)
        words = (
            f"places, {name}, of requests at the same position go together, {z:+.1f} standard deviations: "
            "they share their randomness"
        )
        yield _Finding(f"alike {name}", z, words, _level(abs(z), FAIL, DOUBT))


def _endings(parts: Sequence[Drawn]) -> Iterator[_Finding]:
    """Outputs that ended against the sum of their end tokens' probabilities, step by step."""
    free = [p for p in parts if p.ended is not None]
    expected, count = float(_column(free, "end").sum()), sum(bool(p.ended) for p in free)
    if free and expected + count >= 1:
        chance = 2 * min(_more(count, expected), float(pdtr(count, expected)))
        words = (
            f"{count} of {len(free)} outputs ended by themselves where the reference expects {expected:.1f} "
            f"(p = {chance:.2g})"
        )
        z = (count - expected) / math.sqrt(max(expected, 1.0))
        yield _Finding("endings", z, words, _rare(chance))


def _noise(parts: Sequence[Drawn]) -> Iterator[_Finding]:
    """The Gumbel form of Token-DiFR (arXiv 2511.20621): with the engine's own noise each token is decided."""
    margin = _column(parts, "noise_margin")
    if not len(margin):
        return
    gross = float((margin > GROSS_NOISE).mean())
    if gross > OTHER_NOISE * float((_column(parts, "decoy_margin") > GROSS_NOISE).mean()):
        return
    level = _rare(_more(gross * len(margin), GROSS_SHARE * len(margin)))
    words = f"with the engine's own noise {gross:.2%} of the tokens are none that it gives"
    yield _Finding("not by its noise", gross, words, level)


def _faults(parts: Sequence[Drawn]) -> Iterator[_Finding]:
    """Log-likelihood ratio of each named fault against p, over the tokens that p allows."""
    for name, sums in _sums(parts).items():
        ratio = float(sums[0])
        words = f"as if with {name}: 10^{ratio / math.log(10):.0f} times as likely as drawn as asked"
        yield _Finding(name, ratio, words, _level(ratio, -math.log(CHANCE), -math.log(SUSPICION)))


def _sums(parts: Sequence[Drawn]) -> dict[str, Array]:
    names = dict.fromkeys(name for p in parts for name in p.faults)
    return {n: np.sum([p.faults[n] for p in parts if n in p.faults], axis=0) for n in names}


def _power(parts: Sequence[Drawn]) -> str:
    """Which named faults would have been seen with 95 %, by their ratio or by tokens beyond."""
    limit, explained = -math.log(CHANCE), _explained(parts)
    enough = next(k for k in range(1, 10**6) if _more(k, explained) < CHANCE)
    seen = {
        name: mean - 1.645 * math.sqrt(max(variance, 0.0)) > limit
        or stray - 1.645 * math.sqrt(stray) > enough
        for name, (_, mean, variance, stray) in _sums(parts).items()
    }
    would = ", ".join(n for n, found in seen.items() if found) or "no named fault of a sampler"
    missed = ", ".join(n for n, found in seen.items() if not found)
    return f"sampler: would have seen (95 %): {would}" + (
        f"; could not have seen: {missed}" if missed else ""
    )
