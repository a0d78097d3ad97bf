"""How far a given output lies from what the reference would have said: statistics over scored tokens.

Token-DiFR (arXiv 2511.20621) scores a token by the reference's best logit - the token's own, under the same
context; at temperature 0 that is the margin of a Score. Everything here is a ratio of sums over requests, so
that a bootstrap which draws whole requests keeps the dependence between tokens of one output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from harness.schema import Interval, Score

Array = npt.NDArray[np.float64]

OUTLIER_SIGMAS = 15.0
"""A token is an outlier beyond this multiple of the output's own noise (median |dlogprob|): noise that is
everywhere, like quantisation, moves the median along; a fault that hits some tokens only does not."""
MIN_OUTLIER_NATS = 0.05
"""In single precision the noise is so low that a mere rounding step would be an outlier."""
CAP_NATS = 10.0
"""One impossible token must not outweigh a thousand others."""
NUM_RESAMPLES = 2000
SMALLEST_MASS = 1e-9
"""Probability below which single-precision logprobs say nothing."""

SMALLEST_NOISE = 1e-5
"""Added to what rounding does to a token, nats: ratios of less are of single precision's last digits."""
SMALLEST_MARGIN = 1e-4
"""Likewise to its margins."""

STATISTICS = (
    *("noise_ratio", "margin_ratio", "mean_abs_dlogprob", "outlier_share", "mismatch_share", "gross_share"),
    *("mean_margin", "mean_kl"),
)
"""|engine's logprob - reference's| over what rounding to the engine's precision does to the same tokens, and
its margins over those of rounding, both where the reference plays that precision; mean |engine's logprob -
reference's|; share of tokens where it is an outlier; share of tokens that are not the reference's choice;
share where the reference prefers another by an outlier's margin; mean margin; mean KL divergence of the
engine from the reference over shared top logprobs."""


class Tokens(NamedTuple):
    """Scored tokens of some requests, flat arrays of one length."""

    request: npt.NDArray[np.int64]
    """Whose token: requests count from 0."""
    position: npt.NDArray[np.int64]
    """Where in the output, from 0."""
    margin: Array
    abs_dlogprob: Array
    """|engine's logprob - reference's|; NaN where the engine gave none."""
    kl: Array
    """KL divergence, nats, as far as the shared top logprobs show it; NaN where there are none."""
    outside: Array
    """The reference's probability of everything outside the shared ones; NaN likewise."""
    rounding: Array
    """|logprob in the engine's precision, played by the reference, - the reference's|; NaN if not played."""
    rounding_margin: Array
    """Margin of the token that this precision prefers; NaN likewise."""
    doubt: Array
    """1 - the reference's probability of the token: what a difference of logits does to the logprob."""

    def where(self, keep: npt.NDArray[np.bool_]) -> Tokens:
        """The tokens for which `keep` holds."""
        return Tokens(
            self.request[keep],
            self.position[keep],
            *(column[keep] for column in self[2:]),
        )

    @property
    def effective(self) -> float:
        """How many tokens in full doubt would tell as much: (sum of doubt)^2 / sum of its squares."""
        squares = float((self.doubt**2).sum())
        return float(self.doubt.sum()) ** 2 / squares if squares else 0.0


def distinct(scores: Sequence[Score]) -> list[Score]:
    """Without those that repeat another to the last digit: they are no further evidence."""
    seen: dict[object, Score] = {}
    for number, s in enumerate(scores):
        same = (s.request_id, s.prompt_token_ids, s.token_ids, s.emitted_logprob, s.emitted_top_logprobs)
        seen.setdefault(str(same) if not s.error and s.token_ids else number, s)
    return list(seen.values())


def tokens_of(scores: Sequence[Score]) -> Tokens:
    """All tokens of the scores without error; `request` counts their prompts from 0.

    Outputs that followed the same prompt, in other restarts, depend on each other.
    """
    usable = [s for s in scores if not s.error and s.token_ids]
    numbers: dict[object, int] = {}
    prompts = [numbers.setdefault((s.request_id, s.prompt_token_ids), len(numbers)) for s in usable]
    lengths = [len(s.token_ids) for s in usable]
    shared = [pair for s in usable for pair in _shared(s)]
    kl, outside = np.asarray(shared, dtype=np.float64).reshape(-1, 2).T
    return Tokens(
        request=np.repeat(np.asarray(prompts, np.int64), lengths),
        position=np.concatenate([np.arange(n) for n in lengths] or [np.zeros(0, np.int64)]),
        # What a sampler says is luck: its margins are none.
        margin=np.minimum(
            _flat([[np.nan] * len(s.margin) if s.sampled else s.margin for s in usable]), CAP_NATS
        ),
        abs_dlogprob=np.minimum(_flat([_abs_dlogprob(s) for s in usable]), CAP_NATS),
        kl=np.minimum(kl, CAP_NATS),
        outside=outside,
        rounding=np.minimum(_flat([_rounding(s) for s in usable]), CAP_NATS),
        rounding_margin=np.minimum(
            _flat([s.played.margin if s.played else [np.nan] * len(s.token_ids) for s in usable]), CAP_NATS
        ),
        doubt=-np.expm1(np.minimum(_flat([s.logprob for s in usable]), 0.0)),
    )


def rounding_of(tokens: Tokens) -> Tokens:
    """What an engine of that precision and without a fault would show on these tokens."""
    played = tokens.where(~np.isnan(tokens.rounding))
    nothing = np.full(len(played.margin), np.nan)
    return played._replace(
        margin=played.rounding_margin, abs_dlogprob=played.rounding, kl=nothing, outside=nothing
    )


def _rounding(score: Score) -> Sequence[float]:
    if score.played is None:
        return [float("nan")] * len(score.token_ids)
    return [abs(p - r) for p, r in zip(score.played.logprob, score.logprob, strict=True)]


def _flat(rows: Sequence[Sequence[float]]) -> Array:
    return np.concatenate([np.asarray(r, dtype=np.float64) for r in rows] or [np.zeros(0)])


def _abs_dlogprob(score: Score) -> Sequence[float]:
    """All NaN when the engine did not give one logprob per token: a partial list could be misaligned.

    All zeros are none either: logprobs taken after greedy sampling has cut the distribution to one token.
    """
    emitted = score.emitted_logprob
    if emitted is None or len(emitted) != len(score.token_ids) or not any(emitted):
        return [float("nan")] * len(score.token_ids)
    return [abs(e - r) for e, r in zip(emitted, score.logprob, strict=True)]


def _shared(score: Score) -> list[tuple[float, float]]:
    """shared_kl() per token; NaN unless both sides gave top logprobs for every token."""
    num = len(score.token_ids)
    if not len(score.top_logprobs) == len(score.emitted_top_logprobs) == num:
        return [(np.nan, np.nan)] * num
    rows = zip(score.top_logprobs, score.emitted_top_logprobs, strict=True)
    return [shared_kl(theirs, ours) for theirs, ours in rows]


def shared_kl(reference: Mapping[int, float], engine: Mapping[int, float]) -> tuple[float, float]:
    """(KL(reference || engine) in nats, the reference's mass outside), as far as shared logprobs show it.

    Each side lists its best tokens only. Those on both lists are compared one by one, all others together
    as one: sum over shared i of p_i ln(p_i / q_i), + P ln(P / Q) with P = 1 - sum p_i and Q likewise. Lumping
    can only lose divergence (log-sum inequality; Cover and Thomas, Elements of Information Theory, 2.7.1), so
    this is a lower bound of the exact KL, and equal to it where nothing lies outside. Nothing shared: 0, 1.
    """
    shared = reference.keys() & engine.keys()
    p = np.exp([reference[i] for i in shared])
    q = np.exp([engine[i] for i in shared])
    p, q = (np.maximum([*side, 1.0 - side.sum()], SMALLEST_MASS) for side in (p, q))
    return max(float(np.sum(p * np.log(p / q))), 0.0), float(min(p[-1], 1.0))


def noise(tokens: Tokens) -> float | None:
    """Median |dlogprob|, nats: what ordinary tokens are off by. None without logprobs."""
    known = tokens.abs_dlogprob[~np.isnan(tokens.abs_dlogprob)]
    return float(np.median(known)) if len(known) else None


def outlier_nats(noise_nats: float) -> float:
    """From where on a difference is an outlier under this noise."""
    return max(OUTLIER_SIGMAS * noise_nats, MIN_OUTLIER_NATS)


def sums(tokens: Tokens, outlier: float) -> dict[str, Array]:
    """Per statistic an array [2, requests]: sums over each request's tokens, then what they are divided by.

    `outlier`: nats. A statistic that no token has (logprobs not given) is left out, as is a request without
    tokens.
    """
    known = ~np.isnan(tokens.abs_dlogprob)
    compared = ~np.isnan(tokens.kl)
    every = ~np.isnan(tokens.margin)
    played = ~np.isnan(tokens.rounding)
    chosen = played & every
    both = known & played
    columns = {
        "noise_ratio": (
            np.where(both, tokens.abs_dlogprob, 0.0),
            np.where(both, tokens.rounding + SMALLEST_NOISE, 0.0),
        ),
        "margin_ratio": (
            np.where(chosen, tokens.margin, 0.0),
            np.where(chosen, tokens.rounding_margin + SMALLEST_MARGIN, 0.0),
        ),
        "mean_abs_dlogprob": (np.where(known, tokens.abs_dlogprob, 0.0), known),
        "outlier_share": (np.where(known, tokens.abs_dlogprob > outlier, 0.0), known),
        "mismatch_share": (tokens.margin > 0.0, every),
        "gross_share": (tokens.margin > outlier, every),
        "mean_margin": (np.where(every, tokens.margin, 0.0), every),
        "mean_kl": (np.where(compared, tokens.kl, 0.0), compared),
    }
    return {
        name: totals for name, pair in columns.items() if (totals := per_request(tokens.request, *pair)).size
    }


def per_request(request: npt.NDArray[np.int64], *columns: npt.NDArray[Any]) -> Array:
    """(values, counts) per token, summed to an array [2, requests]; requests without a count are left out."""
    totals = np.stack([np.bincount(request, weights=column.astype(float)) for column in columns])
    return totals[:, totals[1] > 0].astype(np.float64)


def pooled(request_sums: Array) -> float:
    """The statistic itself: sum over all tokens / number of tokens."""
    return float(request_sums[0].sum() / request_sums[1].sum())


def resampled(request_sums: Array, seed: int) -> Array:
    """Bootstrap of the pooled mean: [NUM_RESAMPLES] values, whole requests drawn with replacement."""
    num = request_sums.shape[1]
    drawn = np.random.default_rng(seed).integers(0, num, size=(NUM_RESAMPLES, num))
    totals = request_sums[:, drawn].sum(axis=2)
    means: Array = totals[0] / totals[1]
    return means


def interval(request_sums: Array, level: float, seed: int) -> Interval:
    """The statistic with its percentile-bootstrap interval; `num` counts requests."""
    low, high = np.quantile(resampled(request_sums, seed), [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean=pooled(request_sums), low=float(low), high=float(high), num=request_sums.shape[1])
