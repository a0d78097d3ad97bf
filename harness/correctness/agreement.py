"""The verdict on one trial's timed output: is it what the reference says, up to healthy output's noise?

Six statistics of the replayed tokens (harness/correctness/divergence.py) are compared with a floor: the same
statistics of healthy output under the same load, or of the variant's own restarts against each other where
those differ more. Thresholds are multiples of the floor; a bootstrap over
requests says whether a statistic beyond its threshold could be luck. docs/CORRECTNESS.md explains the
choices and shows what they catch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import msgspec
import numpy as np
from scipy.special import bdtrc

from harness.correctness import divergence, self_noise, textcheck
from harness.correctness.divergence import Array, Tokens
from harness.schema import Agreement, Noun, RequestRecord, Score, Verdict

MULTIPLES = {
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

LEVEL = 0.99
"""Two-sided level of intervals; a statistic fails when the lower end of its excess lies beyond the limit."""
SUSPICION = 0.9
"""Share of resamples beyond the limit from which a statistic that does not fail is CANNOT TELL."""
MIN_TOKENS = 200
MIN_REQUESTS = 4
MIN_EVENTS = 8
"""Outliers or divergences; fewer say nothing about their share."""
FEW_REQUESTS = 8
"""Fewer must exceed their limits by LATE_SLACK to fail, as in blocks of positions."""
LATE_SLACK = 1.5
"""Blocks of positions are many and small: each must exceed its limits by this much to count."""
CHANCE = 1e-6
"""A request is called bad when its gross divergences would be this unlikely in healthy output."""


class JudgeSettings(Noun):
    """What the numbers are judged under."""

    dtype: str = "bfloat16"
    """Effective dtype of the judged variant."""
    reference_dtype: str = "float32"
    """Dtype the reference computes in."""
    seed: int = 0
    expected_len: dict[str, int] = msgspec.field(default_factory=dict)
    """Request id -> output tokens that had to come, to find premature ends."""
    usual: tuple[RequestRecord, ...] = ()
    """Output that alarms are held against where it is not floor_records."""


class _Floor(NamedTuple):
    """Expected value of each statistic, with its sums per request where it was measured."""

    values: dict[str, float]
    source: str
    sums: dict[str, Array]


_DEFAULTS = JudgeSettings()


def judge(
    scores: Sequence[Score],
    records: Sequence[RequestRecord],
    floor_scores: Sequence[Score] | None = None,
    settings: JudgeSettings = _DEFAULTS,
    floor_records: Sequence[RequestRecord] = (),
) -> Agreement:
    """The verdict on `scores` (replayed sample of one trial) and `records` (all its requests).

    `floor_scores`: healthy output replayed the same way - the reference variant's own timed output at the
    same load. Without it the dtype's default floor holds. `floor_records`: that variant's requests of the
    same scenario; a symptom in the text which they show as often is no fault. Without `scores` the text alone
    is looked at: it can FAIL, it cannot PASS.
    """
    symptoms = _symptoms(records, floor_records)
    alarms = textcheck.alarms(records, settings.expected_len, settings.usual or floor_records)
    tokens = divergence.tokens_of(scores)
    reference_floor = _floor(floor_scores or (), settings)
    own = self_noise.sums(scores, _outlier(tokens, reference_floor))
    floor = _raised(reference_floor, own, settings)
    if not len(tokens.margin):
        verdict, reason = _verdict(scores, symptoms, [])
        reference = scores[0].reference if scores else ""
        return Agreement(verdict=verdict, reference=reference, reason=reason, alarms=alarms)
    outlier = _outlier(tokens, floor)
    sums = divergence.sums(tokens, outlier)
    surely, perhaps = _compare(sums, floor, settings.seed)
    bad_from, late = _late(tokens, outlier, floor, settings.seed)
    numeric = [*surely, *late, *_bad_requests(scores, outlier, floor)]
    verdict, reason = _verdict(scores, numeric + symptoms, perhaps)
    exact = [s for s in scores if not s.retokenised]
    if numeric and verdict == "CANNOT TELL" and _enough(exact):
        # Ids made from text can look like a fault; those that came as ids decide, where they are enough.
        left_out = f"{len(scores) - len(exact)} outputs without token ids are left out of the verdict"
        alone = judge(exact, records, floor_scores, settings, floor_records)
        return msgspec.structs.replace(alone, alarms=(*alone.alarms, left_out))
    described = _describe([s for s in scores if not s.error and s.token_ids], tokens, outlier)
    return msgspec.structs.replace(
        described,
        verdict=verdict,
        reason=reason,
        statistics={n: divergence.interval(s, LEVEL, settings.seed) for n, s in sums.items()},
        floor=floor.values,
        floor_source=floor.source,
        self_noise={n: divergence.pooled(s) for n, s in own.items()},
        thresholds={n: multiple * floor.values[n] for n, multiple in MULTIPLES.items()},
        first_bad_position=bad_from,
        alarms=alarms,
    )


# --- the floor -----------------------------------------------------------------------------------


def _floor(floor_scores: Sequence[Score], settings: JudgeSettings) -> _Floor:
    """The dtype's default floor, or the reference's own output where that is noisier, up to FLOOR_CAP.

    Never lower: an engine that scores its own output shares its rounding, and on some hosts repeats it bit by
    bit, so that any other healthy engine would look wrong.
    """
    dtype = _noisier(settings)
    default = DEFAULT_FLOORS[dtype]
    tokens = divergence.tokens_of(floor_scores)
    if len(tokens.margin) < MIN_TOKENS:
        return _Floor(default, f"default for {dtype}, not measured on this model", {})
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
    return _Floor({**default, **measured, **capped, **p99}, source, kept)


def _noisier(settings: JudgeSettings) -> str:
    """The dtype of more noise, of the variant's and the reference's; an unknown one counts as bfloat16."""
    given = (settings.dtype, settings.reference_dtype)
    known = [d if d in DEFAULT_FLOORS else "bfloat16" for d in given]
    return max(known, key=lambda d: DEFAULT_FLOORS[d]["mean_abs_dlogprob"])


def _raised(floor: _Floor, own: dict[str, Array], settings: JudgeSettings) -> _Floor:
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
    raised = [n for n in MULTIPLES if values[n] != floor.values[n]]
    told = f"; {', '.join(raised)} raised to the variant's own noise between restarts" if raised else ""
    return _Floor(values, floor.source + told, sums)


def _floor_draws(floor: _Floor, name: str, seed: int) -> Array | float:
    """Bootstrap of a measured floor, at least its smallest value; the value itself for a default one."""
    if name not in floor.sums:
        return floor.values[name]
    return np.maximum(divergence.resampled(floor.sums[name], seed + 1), SMALLEST_FLOOR[name])


def _outlier(tokens: Tokens, floor: _Floor) -> float:
    """Nats beyond which a difference is no noise: by the output's own noise, as far as that may go."""
    largest = NOISE_CAP * floor.values[NOISE]
    own = divergence.noise(tokens)
    return divergence.outlier_nats(largest if own is None else min(own, largest))


# --- the comparisons -----------------------------------------------------------------------------


def _compare(
    sums: dict[str, Array], floor: _Floor, seed: int, slack: float = 1.0
) -> tuple[list[str], list[str]]:
    """Sentences for the statistics surely beyond their limits, and for those beyond that could be luck."""
    surely, perhaps = [], []
    for name, request_sums in sums.items():
        value, multiple = divergence.pooled(request_sums), slack * MULTIPLES[name]
        few = name.endswith("_share") and request_sums[0].sum() < MIN_EVENTS
        if value <= multiple * floor.values[name] or few:
            continue
        times = f"{value / floor.values[name]:.1f} x the floor of {floor.values[name]:.3g}"
        words = f"{name} {value:.3g} is {times} (limit {multiple:g} x)"
        draws, limits = divergence.resampled(request_sums, seed), multiple * _floor_draws(floor, name, seed)
        beyond = float((draws > limits).mean())
        # A bootstrap over a handful of requests is too sure of itself.
        few_slack = LATE_SLACK if request_sums.shape[1] < FEW_REQUESTS else 1.0
        if float((draws > few_slack * limits).mean()) > (1 + LEVEL) / 2:
            surely.append(words)
        elif beyond > SUSPICION:
            perhaps.append(f"{words}, but its interval crosses the limit")
    return surely, perhaps


def _late(tokens: Tokens, outlier: float, floor: _Floor, seed: int) -> tuple[int | None, list[str]]:
    """First output position from which every block of positions fails, when earlier blocks do not."""
    edges = [0, 32]
    while edges[-1] <= int(tokens.position.max()):
        edges.append(edges[-1] * 2)
    failing: list[tuple[int, str]] = []
    for first, end in reversed(list(pairwise(edges))):
        block = tokens.where((tokens.position >= first) & (tokens.position < end))
        if len(np.unique(block.request)) < MIN_REQUESTS or len(block.margin) < MIN_TOKENS // 4:
            continue
        surely, _ = _compare(divergence.sums(block, outlier), floor, seed, LATE_SLACK)
        if not surely:
            break
        failing.append((first, surely[0]))
    if not failing or failing[-1][0] == 0:
        return None, []
    first, cause = failing[-1]
    return first, [f"from output position {first} on: {cause}"]


def _bad_requests(scores: Sequence[Score], outlier: float, floor: _Floor) -> list[str]:
    """Requests whose gross divergences healthy output would show with probability < CHANCE."""
    expected = min(MULTIPLES["gross_share"] * floor.values["gross_share"], 0.5)
    usable = [s for s in scores if not s.error and s.token_ids]
    bad = []
    for score in usable:
        gross = sum(m > outlier for m in score.margin)
        if bdtrc(gross - 1, len(score.token_ids), expected) < CHANCE / len(usable):
            bad.append((gross / len(score.token_ids), score.request_id))
    if not bad:
        return []
    share, worst = max(bad)
    return [
        f"{len(bad)} of {len(usable)} requests diverge grossly (worst {worst}: {share:.0%} of its tokens)"
    ]


def _symptoms(records: Sequence[RequestRecord], healthy: Sequence[RequestRecord]) -> list[str]:
    """Symptoms in the text that are faults: NaN always, others where healthy output shows fewer."""
    nan = sum("is NaN" in r.error or (not r.error and textcheck.first_nan(r) is not None) for r in records)
    found = [f"{nan} of {len(records)} outputs have logprobs that are not numbers"] if nan else []
    return found + list(textcheck.excess(records, healthy))


def _enough(scores: Sequence[Score]) -> bool:
    """Whether there are scored requests and tokens enough to judge by."""
    usable = [s for s in scores if not s.error and s.token_ids]
    return len(usable) >= MIN_REQUESTS and sum(len(s.token_ids) for s in usable) >= MIN_TOKENS


def _verdict(scores: Sequence[Score], findings: list[str], perhaps: list[str]) -> tuple[Verdict, str]:
    """FAIL on any finding; CANNOT TELL on too little or unclear evidence; else PASS."""
    failed = [s for s in scores if s.error]
    tokens = sum(len(s.token_ids) for s in scores if not s.error)
    retokenised = sum(s.retokenised for s in scores)
    if findings and retokenised:
        cause = (
            f"{retokenised} outputs came without token ids and were re-tokenised, which can look like a fault"
        )
        return "CANNOT TELL", f"{cause}: {'; '.join(findings)}"
    if findings:
        return "FAIL", "; ".join(findings)
    if not scores:
        return "", ""
    if len(failed) * 5 > len(scores):
        return "CANNOT TELL", f"{len(failed)} of {len(scores)} requests not scored: {failed[0].error}"
    if not _enough(scores):
        few = f"only {tokens} tokens of {len(scores) - len(failed)} requests were scored"
        return "CANNOT TELL", f"{few}; at least {MIN_TOKENS} of {MIN_REQUESTS} are needed"
    if perhaps:
        return "CANNOT TELL", "; ".join(perhaps) + "; verify more requests"
    return "PASS", ""


def _describe(usable: Sequence[Score], tokens: Tokens, outlier: float) -> Agreement:
    """The fields of an Agreement that describe rather than judge; its verdict is still to be given."""
    firsts = [next((j for j, m in enumerate(s.margin) if m > 0), None) for s in usable]
    diverged = [f for f in firsts if f is not None]
    dlogprob = tokens.abs_dlogprob[~np.isnan(tokens.abs_dlogprob)]
    outside = tokens.outside[~np.isnan(tokens.outside)]
    return Agreement(
        verdict="CANNOT TELL",
        reference=usable[0].reference,
        num_requests=len(usable),
        num_tokens=len(tokens.margin),
        token_match=float((tokens.margin == 0).mean()),
        request_match=1 - len(diverged) / len(usable),
        first_divergence=int(median(diverged)) if diverged else None,
        near_ties=int(((tokens.margin > 0) & (tokens.margin <= outlier)).sum()),
        mean_margin=float(tokens.margin.mean()),
        p99_margin=float(np.quantile(tokens.margin, 0.99)),
        mean_abs_dlogprob=float(dlogprob.mean()) if len(dlogprob) else None,
        outside_mass=float(outside.mean()) if len(outside) else None,
    )
