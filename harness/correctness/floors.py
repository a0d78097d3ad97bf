"""What healthy output shows: the floor that a verdict holds an engine's output against, and the limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from harness.correctness import divergence
from harness.correctness.divergence import Array, Tokens
from harness.schema import Noun, RequestRecord, Score

MULTIPLES = {
    "noise_ratio": 1.6,
    "margin_ratio": 10.0,
    "mean_abs_dlogprob": 6.0,
    "outlier_share": 2.0,
    "mismatch_share": 6.0,
    "gross_share": 5.0,
    "mean_margin": 20.0,
    "mean_kl": 20.0,
}
"""A statistic fails beyond its multiple of the floor. Measured multiples, in this order: keys and values in
fp8, which is no fault, 3.6, 0.8, 3.4, 3, 10 and 9; one expert of one layer x 1.5, which is one, 1.8, 4.3,
1.8, 6, 6 and 4; experts looked up wrongly 200, 130, 50, 600, 3400 and 1100."""

SMALLEST_FLOOR = {
    "noise_ratio": 1.0,
    "margin_ratio": 1.0,
    "mean_abs_dlogprob": 1e-5,
    "outlier_share": 5e-3,
    "mismatch_share": 1e-3,
    "gross_share": 1e-3,
    "mean_margin": 5e-4,
    "mean_kl": 1e-8,
}
"""A floor measured on few tokens can be zero by luck; none is taken to be lower than this."""

NOISE = "median_abs_dlogprob"
"""Key, in floors, of the noise that outliers are measured by."""
NOISE_CAP = 5.0
"""More noise than this multiple of the floor's explains nothing: a broken engine must not excuse itself."""

FLOOR_CAP = 5.0
"""No floor exceeds this multiple of its default: a broken reference must not excuse a broken engine."""

_BF16 = {
    "noise_ratio": 1.0,
    "margin_ratio": 1.0,
    NOISE: 0.0075,
    "mean_abs_dlogprob": 0.0125,
    "outlier_share": 0.0055,
    "mismatch_share": 0.0125,
    "gross_share": 0.001,
    "mean_margin": 0.0007,
    "mean_kl": 0.00034,
}
_FP16 = {
    **SMALLEST_FLOOR,
    NOISE: 0.00095,
    "mean_abs_dlogprob": 0.0017,
    "mismatch_share": 0.0015,
    "mean_kl": 0.000025,
}
DEFAULT_FLOORS = {
    "bfloat16": _BF16,
    "float16": _FP16,
    # Ten times what is measured on a CPU: tiny-moe is shallow and narrow, and rounding adds up.
    "float32": {**SMALLEST_FLOOR, NOISE: 1e-5},
    # What accelerators may make of float32 in matrix products; twice what is measured on an H200.
    "tensorfloat32": {
        **SMALLEST_FLOOR,
        NOISE: 0.0002,
        "mean_abs_dlogprob": 0.0008,
        "mean_kl": 3e-6,
    },
}
"""Healthy engines of a dtype against an fp32 reference, where no floor was measured on this model."""

EIGHT_BIT_NOISE = 2.0
"""Limit of noise_ratio where 8-bit keys and values are attested and played: kernels that take queries and
probabilities in 8 bits too are at 1.2 to 1.45, other healthy ones at 0.86 to 1.2, 7 experts of 8 at 3.4."""
DOUBTFUL = 0.8
"""Of noise_ratio's limit: more noise than rounding explains, though less than a known fault, is no PASS."""

PLAIN = 2.5
"""Multiple of mean_abs_dlogprob's default floor where nothing was played and no 8-bit keys and values or
weights are attested: they need 6, other healthy output stays below 1.5, a lost expert of 8 is at 2.8 to 7."""

MIN_TOKENS = 200
MIN_REQUESTS = 4


class JudgeSettings(Noun):
    """What the numbers are judged under."""

    dtype: str = "bfloat16"
    """Effective dtype of the judged variant."""
    reference_dtype: str = "float32"
    """Dtype the reference computes in."""
    seed: int = 0
    eight_bit: bool = False
    """Whether the variant attests 8-bit keys and values or weights."""
    expected_len: dict[str, int] = msgspec.field(default_factory=dict)
    """Request id -> output tokens that had to come, to find premature ends."""
    usual: tuple[RequestRecord, ...] = ()
    """Output that alarms are held against where it is not floor_records."""


class Floor(NamedTuple):
    """Expected value of each statistic, with its sums per request where it was measured."""

    values: dict[str, float]
    source: str
    sums: dict[str, Array]
    multiples: dict[str, float] = MULTIPLES


def floor(
    rounding: Tokens, scores: Sequence[Score], floor_scores: Sequence[Score], settings: JudgeSettings
) -> Floor:
    """What rounding does to these tokens where the reference played it; else what healthy output does."""
    if len(rounding.margin) < MIN_TOKENS:
        return _usual_floor(floor_scores, settings)
    played = next(s.played.precision for s in scores if s.played)
    default = DEFAULT_FLOORS[_noisier(settings)]
    noise = divergence.noise(rounding) or 0.0
    sums = divergence.sums(rounding, divergence.outlier_nats(noise))
    values = {n: max(divergence.pooled(s), SMALLEST_FLOOR[n]) for n, s in sums.items()}
    exact = {"noise_ratio": 1.0, "margin_ratio": 1.0, NOISE: noise}
    source = f"what rounding to {played} does to this model on {len(rounding.margin)} of these tokens"
    multiples = MULTIPLES | ({"noise_ratio": EIGHT_BIT_NOISE} if settings.eight_bit else {})
    kept = {n: s for n, s in sums.items() if n not in exact}
    return Floor({**default, **values, **exact}, source, kept, multiples)


def _usual_floor(floor_scores: Sequence[Score], settings: JudgeSettings) -> Floor:
    """The dtype's default floor, or the reference's own output where that is noisier, up to FLOOR_CAP.

    Never lower: an engine that scores its own output shares its rounding, and on some hosts repeats it bit by
    bit, so that any other healthy engine would look wrong.
    """
    dtype = _noisier(settings)
    default = DEFAULT_FLOORS[dtype]
    multiples = MULTIPLES if settings.eight_bit else MULTIPLES | {"mean_abs_dlogprob": PLAIN}
    tokens = divergence.tokens_of(floor_scores)
    if len(tokens.margin) < MIN_TOKENS:
        return Floor(default, f"default for {dtype}, not measured on this model", {}, multiples)
    noise = max(divergence.noise(tokens) or 0.0, default[NOISE])
    sums = divergence.sums(tokens, divergence.outlier_nats(noise))
    raised = {n: s for n, s in sums.items() if divergence.pooled(s) > default[n]}
    measured = {n: divergence.pooled(s) for n, s in raised.items()} | {NOISE: noise}
    own = f"the reference's own output, {len(tokens.margin)} tokens"
    source = f"default for {dtype}, which {own}, does not exceed"
    if raised:
        source = f"measured on {own} ({', '.join(raised)}), else default for {dtype}"
    capped = {n: FLOOR_CAP * default[n] for n, v in measured.items() if v > FLOOR_CAP * default[n]}
    if capped:
        source += (
            f", {', '.join(capped)} held at {FLOOR_CAP:g} x the default: the reference is noisier than that"
        )
    kept = {n: s for n, s in raised.items() if n not in capped}
    p99 = {"p99_margin": float(np.quantile(tokens.margin, 0.99))}
    return Floor({**default, **measured, **capped, **p99}, source, kept, multiples)


def _noisier(settings: JudgeSettings) -> str:
    """The dtype of more noise, of the variant's and the reference's; an unknown one counts as bfloat16."""
    # Keys and values in 8 bits round more coarsely than bfloat16, whatever the rest is computed in.
    given = (settings.dtype, settings.reference_dtype, *(["bfloat16"] if settings.eight_bit else []))
    known = [d if d in DEFAULT_FLOORS else "bfloat16" for d in given]
    return max(known, key=lambda d: DEFAULT_FLOORS[d]["mean_abs_dlogprob"])


def raised(floor: Floor, own: dict[str, Array], settings: JudgeSettings) -> Floor:
    """The floor where the variant's restarts differ less than it; their own noise, capped, where more.

    Never lower: restarts that agree with each other can agree on what is wrong.
    """
    default = DEFAULT_FLOORS[_noisier(settings)]
    values, sums = dict(floor.values), dict(floor.sums)
    for name, request_sums in own.items():
        noise, cap = divergence.pooled(request_sums), FLOOR_CAP * default[name]
        if min(noise, cap) <= values[name]:
            continue
        values[name] = min(noise, cap)
        sums.pop(name, None)
        if noise <= cap:
            sums[name] = request_sums
    raised = [n for n in floor.multiples if values[n] != floor.values[n]]
    told = f"; {', '.join(raised)} raised to the variant's own noise between restarts" if raised else ""
    return Floor(values, floor.source + told, sums, floor.multiples)


def draws(floor: Floor, name: str, seed: int) -> Array | float:
    """Bootstrap of a measured floor, at least its smallest value; the value itself for a default one."""
    if name not in floor.sums:
        return floor.values[name]
    return np.maximum(divergence.resampled(floor.sums[name], seed + 1), SMALLEST_FLOOR[name])


def outlier(tokens: Tokens, floor: Floor) -> float:
    """Nats beyond which a difference is no noise: by the output's own noise, as far as that may go."""
    largest = NOISE_CAP * floor.values[NOISE]
    own = divergence.noise(tokens)
    return divergence.outlier_nats(largest if own is None else min(own, largest))


def described(floor: Floor, sums: dict[str, Array], own: dict[str, Array]) -> dict[str, Any]:
    """The fields of an Agreement that tell its floor, limits and the restarts' own noise."""
    return {
        "floor": floor.values,
        "floor_source": floor.source,
        "self_noise": {name: divergence.pooled(one) for name, one in own.items()},
        "thresholds": {n: times * floor.values[n] for n, times in floor.multiples.items() if n in sums},
    }
