"""How far a given output lies from what the reference would have said: statistics over scored tokens.

Token-DiFR (arXiv 2511.20621) scores a token by the reference's best logit - the token's own, under the same
context; at temperature 0 that is the margin of a Score. Everything here is a ratio of sums over requests, so
that a bootstrap which draws whole requests keeps the dependence between tokens of one output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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

STATISTICS = ("mean_abs_dlogprob", "outlier_share", "mismatch_share", "gross_share", "mean_margin")
"""Mean |engine's logprob - reference's|; share of tokens where it is an outlier; share of tokens that are not
the reference's choice; share where the reference prefers another by an outlier's margin; mean margin."""


class Tokens(NamedTuple):
    """Scored tokens of some requests, flat arrays of one length."""

    request: npt.NDArray[np.int64]
    """Whose token: requests count from 0."""
    position: npt.NDArray[np.int64]
    """Where in the output, from 0."""
    margin: Array
    abs_dlogprob: Array
    """|engine's logprob - reference's|; NaN where the engine gave none."""

    def where(self, keep: npt.NDArray[np.bool_]) -> Tokens:
        """The tokens for which `keep` holds."""
        return Tokens(self.request[keep], self.position[keep], self.margin[keep], self.abs_dlogprob[keep])


def tokens_of(scores: Sequence[Score]) -> Tokens:
    """All tokens of the scores without error; `request` counts those scores from 0."""
    usable = [s for s in scores if not s.error and s.token_ids]
    lengths = [len(s.token_ids) for s in usable]
    return Tokens(
        request=np.repeat(np.arange(len(usable)), lengths),
        position=np.concatenate([np.arange(n) for n in lengths] or [np.zeros(0, np.int64)]),
        margin=np.minimum(_flat([s.margin for s in usable]), CAP_NATS),
        abs_dlogprob=np.minimum(_flat([_abs_dlogprob(s) for s in usable]), CAP_NATS),
    )


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


def noise(tokens: Tokens) -> float | None:
    """Median |dlogprob|, nats: what ordinary tokens are off by. None without logprobs."""
    known = tokens.abs_dlogprob[~np.isnan(tokens.abs_dlogprob)]
    return float(np.median(known)) if len(known) else None


def outlier_nats(noise_nats: float) -> float:
    """From where on a difference is an outlier under this noise."""
    return max(OUTLIER_SIGMAS * noise_nats, MIN_OUTLIER_NATS)


def sums(tokens: Tokens, outlier: float) -> dict[str, Array]:
    """Per statistic an array [2, requests]: sums over each request's tokens, then the token counts.

    `outlier`: nats. A statistic that no token has (logprobs not given) is left out, as is a request without
    tokens.
    """
    known = ~np.isnan(tokens.abs_dlogprob)
    every = np.ones(len(tokens.margin))
    columns = {
        "mean_abs_dlogprob": (np.where(known, tokens.abs_dlogprob, 0.0), known),
        "outlier_share": (np.where(known, tokens.abs_dlogprob > outlier, 0.0), known),
        "mismatch_share": (tokens.margin > 0.0, every),
        "gross_share": (tokens.margin > outlier, every),
        "mean_margin": (tokens.margin, every),
    }
    result = {}
    for name, pair in columns.items():
        totals = np.stack([np.bincount(tokens.request, weights=column.astype(float)) for column in pair])
        totals = totals[:, totals[1] > 0]
        if totals.size:
            result[name] = totals.astype(np.float64)
    return result


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
