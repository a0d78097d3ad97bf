"""Variants against the baseline: ratio, interval, smallest difference that shows, and words. Pure.

A ratio is the mean difference of logs over restarts that both sides have, because interleaved order (A B, B A
...) puts both under the same state of the host. Its spread is learned from all ratios of the run in the same
figure (harness/numbers/spread.py). Where restarts do not pair, it is Welch's interval of what there is.

One Holm correction covers the primary figures of all scenarios and variants of a run. Everything else is
exploratory: shown with its own interval, and never called decided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from harness.label import switches
from harness.numbers import intervals, spread
from harness.numbers.figures import Figure
from harness.numbers.intervals import CONFIDENCE, Restarts
from harness.numbers.spread import Spread
from harness.schema import Contrast, Interval

POWER = 0.8
"""Chance with which a difference of the size that is printed as detectable would have been decided."""
ALPHA = 1.0 - CONFIDENCE


class Sample(NamedTuple):
    """One figure of one variant at one scenario, by restart."""

    scenario: str
    variant: str
    figure: Figure
    values: Restarts


class _Pair(NamedTuple):
    """A variant's restarts beside the baseline's."""

    contrast: Contrast
    values: Restarts
    base: Restarts

    @property
    def differences(self) -> NDArray[np.float64] | None:
        """Logs of the ratios of restarts that both have; None where there are fewer than two."""
        common = sorted(self.values.keys() & self.base.keys())
        if len(common) < 2 or not self.positive:
            return None
        return np.log([self.values[r] / self.base[r] for r in common])

    @property
    def positive(self) -> bool:
        """Logs exist."""
        return min([*self.values.values(), *self.base.values()], default=0.0) > 0.0


def contrasts(samples: Sequence[Sample], baseline: str) -> tuple[Contrast, ...]:
    """Every variant against `baseline`, or itself without a switch, in every figure that both have.

    With words; primary figures first.
    """
    pairs = sorted(_pairs(samples, baseline), key=lambda pair: not pair.contrast.primary)
    learned = _learned(pairs)
    raw = [_estimate(pair, known) for pair, known in zip(pairs, learned, strict=True)]
    family = [c.p_value if c.primary else None for c in raw]
    adjusted, num = intervals.holm(family), sum(p is not None for p in family)
    return tuple(_finished(c, p, known, num) for c, p, known in zip(raw, adjusted, learned, strict=True))


def decided(contrast: Contrast) -> bool:
    """Whether one side is better: a primary figure whose interval excludes 1, also after the correction."""
    estimate = contrast.ratio
    if not contrast.primary or estimate is None or estimate.num < 2 or estimate.low <= 1.0 <= estimate.high:
        return False
    return contrast.p_value is None or contrast.p_value < ALPHA


def words(contrast: Contrast, num_comparisons: int = 1) -> str:
    """The contrast as a sentence: "A is 1.18x B (1.12-1.25) in output tok/s, on this host"."""
    estimate = contrast.ratio
    pair, figure, where = f"{contrast.variant} and {contrast.baseline}", contrast.title, _where(contrast)
    if estimate is None:
        return f"{pair}: no ratio, a side has no {figure}"
    if estimate.num < 2:
        seen = f"{contrast.variant} was seen at {estimate.mean:.2f}x {contrast.baseline} in {figure}"
        return f"{seen}: one run, no interval"
    span = f"{estimate.low:.2f}-{estimate.high:.2f}"
    better = ", less is better" if contrast.lower_is_better else ""
    stated = f"{contrast.variant} is {estimate.mean:.2f}x {contrast.baseline} ({span}) in {figure}{better}"
    if not contrast.primary:
        return f"exploratory: {stated}, {where}"
    if decided(contrast):
        return f"{stated}, {where}"
    if not estimate.low <= 1.0 <= estimate.high:
        span += f" alone, not after correcting for {num_comparisons} comparisons"
    reach = f"; {contrast.detectable:.2f}x would have been seen" if contrast.detectable else ""
    return f"{pair} are too close to call in {figure} ({span}{reach}), {where}"


def _where(contrast: Contrast) -> str:
    return "on this host" if contrast.num_hosts == 1 else f"over {contrast.num_hosts} hosts"


def _pairs(samples: Iterable[Sample], baseline: str) -> Iterable[_Pair]:
    found = {(s.scenario, s.variant, s.figure.name): s for s in samples if s.values}
    there = {(scenario, variant) for scenario, variant, _ in found}
    for (scenario, variant, name), sample in found.items():
        # A variant with a switch on is the other half of a pair: the same without it.
        chosen = switches.partner(variant, (v for s, v in there if s == scenario)) or baseline
        base = found.get((scenario, chosen, name))
        if base is None or variant == chosen:
            continue
        contrast = Contrast(
            scenario=scenario,
            baseline=chosen,
            variant=variant,
            metric=name,
            title=sample.figure.title,
            lower_is_better=sample.figure.lower_is_better,
            primary=sample.figure.primary,
        )
        yield _Pair(contrast, sample.values, base.values)


def _learned(pairs: Sequence[_Pair]) -> list[Spread | None]:
    """The spread of each pair, from all pairs in the same figure; None where restarts do not pair."""
    # An offered throughput varies otherwise than one that is reached: primary cells learn of primary ones.
    cells = [((pair.contrast.metric, pair.contrast.primary), pair.differences) for pair in pairs]
    known: dict[int, Spread] = {}
    for kind in dict.fromkeys(kind for kind, _ in cells):
        places = [i for i, (other, cell) in enumerate(cells) if other == kind and cell is not None]
        found = spread.learn([cell for i in places if (cell := cells[i][1]) is not None])
        known |= dict(zip(places, found, strict=True))
    return [known.get(i) for i in range(len(pairs))]


def _estimate(pair: _Pair, known: Spread | None) -> Contrast:
    """Ratio and p, not corrected yet."""
    differences = pair.differences
    if known is None or differences is None:
        a, b = list(pair.values.values()), list(pair.base.values())
        return msgspec.structs.replace(
            pair.contrast,
            ratio=intervals.ratio(a, b, paired=False),
            p_value=intervals.p_value(a, b, paired=False),
        )
    mean, half = float(differences.mean()), known.reach(ALPHA)
    mean_ratio, low, high = (math.exp(x) for x in (mean, mean - half, mean + half))
    return msgspec.structs.replace(
        pair.contrast,
        ratio=Interval(mean=mean_ratio, low=low, high=high, num=int(differences.size)),
        p_value=known.tail(mean),
        spread=known.typical,
        num_cells=known.num_cells,
    )


def _finished(contrast: Contrast, adjusted: float | None, known: Spread | None, num: int) -> Contrast:
    """With the corrected p where it is primary, the smallest difference that shows, and words."""
    reach: Callable[[float], float] | None = known.reach if known else None
    contrast = msgspec.structs.replace(
        contrast,
        p_value=adjusted if contrast.primary else contrast.p_value,
        detectable=math.exp(reach(ALPHA / num) + reach(2.0 * (1.0 - POWER)))
        if reach and contrast.primary
        else None,
    )
    return msgspec.structs.replace(contrast, words=words(contrast, num))
