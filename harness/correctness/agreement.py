"""The verdict on one trial's timed output: is it what the reference says, up to healthy output's noise?

Statistics of the replayed tokens (harness/correctness/divergence.py) are compared with a floor
(harness/correctness/floors.py): what rounding alone does to this model on these tokens, where the reference
plays the engine's precision; else healthy output under the same load, or the default of a dtype, with wider
limits. Faults that the reference plays are looked for by their direction (harness/correctness/faults.py). A
bootstrap over prompts says whether a statistic beyond its limit could be luck. docs/CORRECTNESS.md explains
the choices and shows what they catch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import msgspec
import numpy as np
from scipy.special import bdtrc

from harness.correctness import divergence, faults, floors, sampled, self_noise, textcheck
from harness.correctness.divergence import Array, Tokens
from harness.correctness.floors import MIN_REQUESTS, MIN_TOKENS, Floor, JudgeSettings
from harness.schema import Agreement, RequestRecord, Score, Verdict

LOST_EXPERT = "one expert fewer"
"""Of the faults that the reference plays, the one that every verdict on a mixture of experts must see."""

LEVEL = 0.99
"""Two-sided level of intervals; a statistic fails when the lower end of its excess lies beyond the limit."""
SUSPICION, SUSPICION_OF_MEANS = 0.9, 0.5
"""Share of resamples beyond the limit from which a statistic that does not fail is CANNOT TELL; the second of
those whose healthy range lies far below: one beyond its limit never passes."""
MEANS = ("noise_ratio", "mean_abs_dlogprob")
MIN_EVENTS = 8
"""Outliers or divergences; fewer say nothing about their share."""
FEW_REQUESTS = 8
"""Fewer must exceed their limits by LATE_SLACK to fail, as in blocks of positions."""
LATE_SLACK = 1.5
"""Blocks of positions are many and small: each must exceed its limits by this much to count."""
CHANCE = 1e-6
"""A request is called bad when its gross divergences would be this unlikely in healthy output."""


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
    restarts, scores = scores, divergence.distinct(scores)
    tokens = divergence.tokens_of(scores)
    reference_floor = floors.floor(divergence.rounding_of(tokens), scores, floor_scores or (), settings)
    own = self_noise.sums(restarts, floors.outlier(tokens, reference_floor))
    floor = floors.raised(reference_floor, own, settings)
    if not len(tokens.margin):
        verdict, reason = _verdict(scores, symptoms, [])
        reference = scores[0].reference if scores else ""
        return Agreement(verdict=verdict, reference=reference, reason=reason, alarms=alarms)
    outlier = floors.outlier(tokens, floor)
    sums = divergence.sums(tokens, outlier)
    found = _findings(scores, sums, floor, settings.seed)
    bad_from, late = _late(tokens, outlier, floor, settings.seed)
    numeric = [*found.surely, *late, *_bad_requests(scores, outlier, floor)]
    verdict, reason = _verdict(scores, numeric + symptoms, found.perhaps)
    exact = [s for s in scores if not s.retokenised]
    if numeric and verdict == "CANNOT TELL" and _enough(exact):
        # Ids made from text can look like a fault; those that came as ids decide, where they are enough.
        left_out = f"{len(scores) - len(exact)} outputs without token ids are left out of the verdict"
        alone = judge(exact, records, floor_scores, settings, floor_records)
        return msgspec.structs.replace(alone, alarms=(*alone.alarms, left_out))
    return msgspec.structs.replace(
        _describe([s for s in scores if not s.error and s.token_ids], tokens, outlier),
        verdict=verdict,
        reason=reason,
        statistics={n: divergence.interval(s, LEVEL, settings.seed) for n, s in sums.items()},
        **floors.described(floor, sums, own),
        likeness={name: shown.share for name, shown in found.likeness.items()},
        sampler=found.sampler,
        power=found.power,
        first_bad_position=bad_from,
        alarms=alarms,
    )


class _Findings(NamedTuple):
    """Sentences for what is surely beyond its limit and for what may be; what was looked for; the power."""

    surely: list[str]
    perhaps: list[str]
    likeness: dict[str, faults.Shown]
    power: str
    sampler: dict[str, float]
    """Figures of sampled output's tests."""


def _findings(scores: Sequence[Score], sums: dict[str, Array], floor: Floor, seed: int) -> _Findings:
    surely, perhaps = _compare(sums, floor, seed)
    likeness = faults.likeness(scores, seed)
    like, perhaps_like = faults.like(likeness)
    power, blind = _power(scores, sums, floor, likeness)
    drawn = sampled.tested(scores) if any(s.sampled for s in scores) else sampled.NOTHING
    if not sums and not drawn.figures:
        blind.append(f"nothing could be compared: {drawn.power}")
    return _Findings(
        [*drawn.surely, *like, *surely],
        [*drawn.perhaps, *perhaps_like, *perhaps, *blind],
        likeness,
        "; ".join(filter(None, (power, drawn.power))),
        drawn.figures,
    )


# --- the comparisons -----------------------------------------------------------------------------


def _compare(
    sums: dict[str, Array], floor: Floor, seed: int, slack: float = 1.0
) -> tuple[list[str], list[str]]:
    """Sentences for the statistics surely beyond their limits, and for those beyond that could be luck."""
    surely, perhaps = [], []
    for name, request_sums in sums.items():
        value, multiple = divergence.pooled(request_sums), slack * floor.multiples[name]
        doubt = floors.DOUBTFUL if name == "noise_ratio" else 1.0
        if value <= doubt * multiple * floor.values[name] or _few(name, request_sums, sums):
            continue
        times = f"{value / floor.values[name]:.1f} x the floor of {floor.values[name]:.3g}"
        words = f"{name} {value:.3g} is {times} (limit {multiple:g} x)"
        draws, limits = divergence.resampled(request_sums, seed), multiple * floors.draws(floor, name, seed)
        beyond = float((draws > doubt * limits).mean())
        # A bootstrap over a handful of requests is too sure of itself.
        few_slack = LATE_SLACK if request_sums.shape[1] < FEW_REQUESTS else 1.0
        if float((draws > few_slack * limits).mean()) > (1 + LEVEL) / 2:
            surely.append(words)
        elif beyond > (SUSPICION_OF_MEANS if name in MEANS else SUSPICION):
            perhaps.append(f"{words}: more than healthy output shows, or luck")
    return surely, perhaps


def _few(name: str, request_sums: Array, sums: dict[str, Array]) -> bool:
    """Whether a statistic rests on too few tokens to say anything."""
    if name == "margin_ratio":
        return bool(sums["mismatch_share"][0].sum() < MIN_EVENTS)
    return name.endswith("_share") and bool(request_sums[0].sum() < MIN_EVENTS)


def _power(
    scores: Sequence[Score], sums: dict[str, Array], floor: Floor, likeness: dict[str, faults.Shown]
) -> tuple[str, list[str]]:
    """(what would have been seen with 95 %, in words; reasons why the evidence is too weak for a verdict)."""
    name = "noise_ratio" if "noise_ratio" in sums else "mean_abs_dlogprob"
    if name not in sums:
        alone = all(s.sampled for s in scores)
        return "" if alone else "judged by margins alone: the engine gave no logprobs", []
    limit = floor.multiples[name]
    wide = divergence.interval(sums[name], LEVEL, 0)
    least = limit * wide.high / wide.mean if wide.mean else limit
    words = f"differences of {least:.1f} x the floor ({least * floor.values['mean_abs_dlogprob']:.2g} nats)"
    seen = faults.seen(scores, likeness, limit)
    caught = [*(fault for fault, found in seen.items() if found), words]
    missed = [fault for fault, found in seen.items() if not found]
    power = "would have seen (95 %): " + ", ".join(caught)
    power += f"; could not have seen: {', '.join(missed)}" if missed else ""
    blind = f"{LOST_EXPERT} would not show in these tokens" if LOST_EXPERT in missed else ""
    return power, [blind] if blind else []


def _late(tokens: Tokens, outlier: float, floor: Floor, seed: int) -> tuple[int | None, list[str]]:
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


def _bad_requests(scores: Sequence[Score], outlier: float, floor: Floor) -> list[str]:
    """Requests whose gross divergences healthy output would show with probability < CHANCE."""
    expected = min(floor.multiples["gross_share"] * floor.values["gross_share"], 0.5)
    usable = [s for s in scores if not s.error and s.token_ids and not s.sampled]
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
    greedy = [s for s in usable if not s.sampled]
    firsts = [next((j for j, m in enumerate(s.margin) if m > 0), None) for s in greedy]
    diverged = [f for f in firsts if f is not None]
    margin = tokens.margin[~np.isnan(tokens.margin)]
    dlogprob = tokens.abs_dlogprob[~np.isnan(tokens.abs_dlogprob)]
    outside = tokens.outside[~np.isnan(tokens.outside)]
    return Agreement(
        verdict="CANNOT TELL",
        reference=usable[0].reference,
        num_requests=len(usable),
        num_tokens=len(tokens.margin),
        num_effective=round(tokens.effective),
        token_match=float((margin == 0).mean()) if len(margin) else None,
        request_match=1 - len(diverged) / len(greedy) if greedy else None,
        first_divergence=int(median(diverged)) if diverged else None,
        near_ties=int(((margin > 0) & (margin <= outlier)).sum()),
        mean_margin=float(margin.mean()) if len(margin) else None,
        p99_margin=float(np.quantile(margin, 0.99)) if len(margin) else None,
        mean_abs_dlogprob=float(dlogprob.mean()) if len(dlogprob) else None,
        outside_mass=float(outside.mean()) if len(outside) else None,
    )
