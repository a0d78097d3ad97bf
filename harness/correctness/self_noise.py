"""The same variant against itself across restarts: what its own noise is, whoever the reference.

Restarts answer the same prompts. As long as two of them say the same tokens they are under the same context,
so that their logprobs, their top logprobs and the replayed margins of what they said can be compared token by
token; at the first fork they prefer different tokens, and the gap between the two tokens' replayed margins
says how much that matters. Behind it nothing is comparable. The statistics are those of
harness/correctness/divergence.py, with the other restart in place of the reference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from harness.correctness import divergence
from harness.correctness.divergence import Array, Tokens
from harness.schema import Score

MIN_TOKENS = 200
MIN_EVENTS = 8
"""A share made of fewer events says nothing."""


def restarts(scores: Sequence[Score]) -> list[list[Score]]:
    """Scores of the same prompt in several restarts, per request; those without a twin are left out."""
    groups: dict[tuple[str, tuple[int, ...]], list[Score]] = defaultdict(list)
    for score in scores:
        if not score.error and score.token_ids and not score.sampled:
            groups[score.request_id, score.prompt_token_ids].append(score)
    return [group for group in groups.values() if len(group) > 1]


def sums(scores: Sequence[Score], outlier: float) -> dict[str, Array]:
    """Per statistic [2, requests] over all pairs of restarts; {} without restarts or with too few tokens.

    `outlier`: nats. A share that rests on fewer than MIN_EVENTS tokens is left out.
    """
    pairs = [
        (number, a, b) for number, group in enumerate(restarts(scores)) for a, b in combinations(group, 2)
    ]
    tokens = _tokens([_against(a, b) for _, a, b in pairs], [number for number, _, _ in pairs])
    if len(tokens.margin) < MIN_TOKENS:
        return {}
    found = divergence.sums(tokens, outlier)
    forks = np.concatenate([_forks(a, b) for _, a, b in pairs])
    found["mismatch_share"] = divergence.per_request(tokens.request, forks, np.ones(len(forks)))
    return {n: s for n, s in found.items() if not n.endswith("_share") or s[0].sum() >= MIN_EVENTS}


def _against(a: Score, b: Score) -> Score:
    """One restart as if the other were its reference, up to and with the first token that differs."""
    end = _compared(a, b)
    same = _common(a, b)
    gaps = [abs(x - y) for x, y in zip(a.margin[:end], b.margin[:end], strict=True)]
    return Score(
        request_id=a.request_id,
        reference=a.reference,
        token_ids=a.token_ids[:end],
        # At the fork the logprobs are of different tokens: the pair says nothing there.
        logprob=_cut(b.emitted_logprob, same) + (float("nan"),) * (end - same),
        emitted_logprob=(_cut(a.emitted_logprob, same) + (0.0,) * (end - same)) or None,
        rank=(),
        margin=tuple(gaps),
        top_logprobs=b.emitted_top_logprobs[:end],
        emitted_top_logprobs=a.emitted_top_logprobs[:end],
    )


def _cut(logprobs: Sequence[float] | None, end: int) -> tuple[float, ...]:
    """NaN for all when an engine gave none: divergence leaves those out."""
    return tuple(logprobs[:end]) if logprobs else (float("nan"),) * end


def _common(a: Score, b: Score) -> int:
    """Tokens until they differ."""
    return next(
        (i for i, (x, y) in enumerate(zip(a.token_ids, b.token_ids, strict=False)) if x != y),
        min(len(a.token_ids), len(b.token_ids)),
    )


def _compared(a: Score, b: Score) -> int:
    """Tokens that can be compared: the common ones and the fork."""
    return min(_common(a, b) + 1, len(a.token_ids), len(b.token_ids))


def _forks(a: Score, b: Score) -> Array:
    """1 where they differ."""
    end = _compared(a, b)
    return np.asarray([float(x != y) for x, y in zip(a.token_ids[:end], b.token_ids[:end], strict=True)])


def _tokens(pairs: Sequence[Score], numbers: Sequence[int]) -> Tokens:
    """Tokens of all pairs, `request` counting prompts: pairs of one prompt depend on each other."""
    tokens = divergence.tokens_of(pairs)
    lengths = [len(pair.token_ids) for pair in pairs]
    return tokens._replace(request=np.repeat(np.asarray(numbers, dtype=np.int64), lengths))
