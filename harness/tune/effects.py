"""What mattered: how much each value of a setting does to the figure, with its interval. Pure.

The logarithm of the figure is fitted as a sum of one term per setting's value (ordinary least squares), so
an effect is a factor against the setting's reference value, the others as they are. What two settings do
together beyond that is tested pair by pair (F test, Holm's correction over the pairs). A search looks where
it is fast, so its points are no random sample: effects hold for the part of the space that was tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from harness.label.point import Point
from harness.numbers.intervals import CONFIDENCE, holm
from harness.schema import Interval, Noun

Floats = NDArray[np.float64]
_SPARE = 3
"""Points more than terms below which no interval is given: the spread would be anybody's guess."""


class Tried(NamedTuple):
    """One point that was measured; value: larger is better, above 0; None = it did not count, and why."""

    point: Point
    value: float | None
    why: str = ""


class Effect(Noun):
    """What one value of a setting does against the setting's reference value."""

    setting: str
    value: str
    against: str
    ratio: Interval | None = None
    """Factor on the figure, larger is better; low = high = mean where no interval can be given."""
    num: int = 0
    """Points with this value that counted."""
    failed: dict[str, int] = msgspec.field(default_factory=dict)
    """Why points with this value did not count -> how many."""

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 1."""
        return (
            self.ratio is not None
            and self.ratio.low < self.ratio.high
            and not self.ratio.low <= 1 <= self.ratio.high
        )


class Interaction(Noun):
    """Two settings that do together what neither does alone."""

    settings: tuple[str, str]
    p_value: float
    """Holm-corrected over all pairs that could be tested."""
    words: str


class Model(NamedTuple):
    """The fitted sum."""

    terms: tuple[tuple[str, str], ...]
    """(setting, value) of each coefficient but the first, which is the level of the reference point."""
    coefficients: Floats
    residuals: Floats
    freedom: int
    inverse: Floats
    """Pseudo-inverse of X'X."""
    rows: Floats

    @property
    def spread(self) -> float:
        """Standard deviation of the log figure around the sum; 0 without degrees of freedom."""
        return float(np.sqrt((self.residuals**2).sum() / self.freedom)) if self.freedom > 0 else 0.0

    def predicted(self, point: Point) -> float:
        """Log figure of any point by the sum alone."""
        return float(_row(point, self.terms) @ self.coefficients)


def fit(tried: Sequence[Tried], reference: Mapping[str, str]) -> Model | None:
    """The sum over the points that counted; None with fewer than three of them."""
    good = [one for one in tried if one.value]
    if len(good) < 3:
        return None
    terms = tuple(
        (key, value)
        for key, usual in reference.items()
        for value in dict.fromkeys(one.point[key] for one in good)
        if value != usual
    )
    rows = np.stack([_row(one.point, terms) for one in good])
    logs = _logs(good)
    inverse: Floats = np.asarray(np.linalg.pinv(rows.T @ rows), dtype=np.float64)
    coefficients = inverse @ rows.T @ logs
    rank = int(np.linalg.matrix_rank(rows))
    return Model(terms, coefficients, logs - rows @ coefficients, len(good) - rank, inverse, rows)


def effects(tried: Sequence[Tried], reference: Mapping[str, str]) -> tuple[Effect, ...]:
    """One per value of each setting that was tried beside its reference value, settings in their order."""
    model = fit(tried, reference)
    found = []
    for key, usual in reference.items():
        for value in dict.fromkeys(one.point[key] for one in tried):
            if value == usual:
                continue
            with_it = [one for one in tried if one.point[key] == value]
            causes = [one.why or "no figure" for one in with_it if not one.value]
            found.append(
                Effect(
                    setting=key,
                    value=value,
                    against=usual,
                    ratio=_ratio(model, (key, value)) if model else None,
                    num=len(with_it) - len(causes),
                    failed={cause: causes.count(cause) for cause in dict.fromkeys(causes)},
                )
            )
    return tuple(found)


def interactions(tried: Sequence[Tried], reference: Mapping[str, str]) -> tuple[Interaction, ...]:
    """Pairs of settings whose joint terms explain more than chance, the strongest first."""
    model = fit(tried, reference)
    good = [one for one in tried if one.value]
    if model is None or model.freedom < _SPARE:
        return ()
    tests = []
    for one, other in combinations(reference, 2):
        tested = _tested(good, model, (one, other))
        if tested:
            tests.append(((one, other), *tested))
    corrected = holm([p for _, p, _ in tests])
    found = [
        Interaction(settings=pair, p_value=p, words=words)
        for (pair, _, words), p in zip(tests, corrected, strict=True)
        if p is not None and p < 1.0 - CONFIDENCE
    ]
    return tuple(sorted(found, key=lambda each: each.p_value))


def sentence(effect: Effect, title: str) -> str:
    """One flag in words, for somebody who copies it into production."""
    name = f"{effect.setting} {effect.value} (against {effect.against})"
    lost = "; ".join(
        f"{num} of {effect.num + sum(effect.failed.values())} did not count: {why}"
        for why, num in effect.failed.items()
    )
    if effect.ratio is None:
        return f"{name}: no effect can be told apart" + (f"; {lost}" if lost else "")
    ratio = effect.ratio
    if ratio.low == ratio.high:
        said = f"{ratio.mean:.2f}x in {title}: too few points to judge it"
    else:
        judged = "copy it" if ratio.low > 1 else "leave it" if ratio.high < 1 else "too close to call"
        said = f"{ratio.mean:.2f}x ({ratio.low:.2f}-{ratio.high:.2f}) in {title}: {judged}"
    return f"{name}: {said}" + (f"; {lost}" if lost else "")


def _logs(good: Sequence[Tried]) -> Floats:
    return np.log(np.array([one.value for one in good], dtype=np.float64))


def _row(point: Mapping[str, str], terms: Sequence[tuple[str, str]]) -> Floats:
    return np.array([1.0, *(float(point[key] == value) for key, value in terms)])


def _ratio(model: Model, term: tuple[str, str]) -> Interval | None:
    """The factor of one term; None where the points cannot tell it from the others."""
    if term not in model.terms:
        return None
    at = model.terms.index(term) + 1
    asked = np.zeros(len(model.coefficients))
    asked[at] = 1.0
    # Estimable only where the term lies in the space that the points span.
    if not np.allclose(model.inverse @ (model.rows.T @ (model.rows @ asked)), asked, atol=1e-6):
        return None
    mean = float(model.coefficients[at])
    num = int(model.rows[:, at].sum())
    if model.freedom < _SPARE:
        return Interval(mean=float(np.exp(mean)), low=float(np.exp(mean)), high=float(np.exp(mean)), num=num)
    half = (
        float(stats.t.ppf(0.5 + CONFIDENCE / 2, model.freedom))
        * model.spread
        * float(np.sqrt(model.inverse[at, at]))
    )
    low, high = np.exp(mean - half), np.exp(mean + half)
    return Interval(mean=float(np.exp(mean)), low=float(low), high=float(high), num=num)


def _tested(good: Sequence[Tried], model: Model, pair: tuple[str, str]) -> tuple[float, str] | None:
    """(p, words) of the joint terms of two settings; None where they cannot be told from the rest."""
    mine = [term for term in model.terms if term[0] == pair[0]]
    other = [term for term in model.terms if term[0] == pair[1]]
    joint = [(a, b) for a in mine for b in other]
    if not joint:
        return None
    columns = np.array(
        [[float(t.point[a[0]] == a[1] and t.point[b[0]] == b[1]) for a, b in joint] for t in good]
    )
    wide = np.hstack([model.rows, columns])
    more = int(np.linalg.matrix_rank(wide)) - int(np.linalg.matrix_rank(model.rows))
    freedom = model.freedom - more
    if more < 1 or freedom < 1:
        return None
    logs = _logs(good)
    solved = np.linalg.lstsq(wide, logs, rcond=None)[0]
    left = float(((logs - wide @ solved) ** 2).sum())
    without = float((model.residuals**2).sum())
    if left <= 1e-12 * max(without, 1e-12):
        return None
    p = float(stats.f.sf((without - left) / more / (left / freedom), more, freedom))
    factors = np.exp(solved[len(model.terms) + 1 :])
    strongest = int(np.argmax(np.abs(np.log(factors))))
    (a, b), factor = joint[strongest], float(factors[strongest])
    words = f"{a[0]} {a[1]} with {b[0]} {b[1]}: {factor:.2f}x of what the two do alone"
    return p, words
