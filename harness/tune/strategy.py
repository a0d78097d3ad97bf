"""Which points to try next: a screening design, then Optuna's TPE and the best by the fitted sum in turn.

Pure. Optuna (requirements-tune.txt) brings five packages more, where SMAC brings twenty-three, scikit-learn
and dask among them, for forests that need more trials than a campaign of twenty has.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from harness.errors import MachineError
from harness.label.point import Point, Space
from harness.tune import design, effects
from harness.tune.effects import Tried

try:
    import optuna
except ImportError as error:
    raise MachineError(
        "tune needs Optuna, which is not in .venv: `sh scripts/setup.sh tune` installs it."
    ) from error

optuna.logging.set_verbosity(optuna.logging.WARNING)
_SCREENED = 0.45
"""Most of the trials that the screening design may take."""
_TWICE = 2
"""Failures after which a value, or a pair of values, that never worked is left alone."""
_ASKS = 40
_ENUMERATED = 50_000
"""Points of a space up to which all of them are looked at by the fitted sum."""


class Search:
    """The search of one engine: what it has been told, and what it would try next. Seeded."""

    def __init__(self, space: Space, reference: Point, seed: int, num: int, screened: int = 0) -> None:
        """`reference`: the point that effects are stated against; `num`: trials to plan for, about.

        `screened`: points of the design that a search before this one has tried.
        """
        self.values = {key: setting.words for key, setting in space.items()}
        self.reference = reference
        self.seed = seed
        self.tried: list[Tried] = []
        self._study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=1, multivariate=True),
        )
        self._kinds: dict[str, optuna.distributions.BaseDistribution] = {
            key: optuna.distributions.CategoricalDistribution(words) for key, words in self.values.items()
        }
        self._screen = self._screening(num)[screened:]
        self._turn = itertools.count()

    def _screening(self, num: int) -> list[Point]:
        sizes = [len(words) for words in self.values.values()]
        terms = 1 + sum(size - 1 for size in sizes)
        rows = max(2, min(terms, int(num * _SCREENED)))
        table = design.screening(sizes, rows, self.seed)
        return [
            {key: words[level] for (key, words), level in zip(self.values.items(), row, strict=True)}
            for row in table.tolist()
        ]

    def tell(self, one: Tried) -> None:
        """A point that was measured. Values outside the space (a variant's own) teach the fitted sum only."""
        self.tried.append(one)
        if any(one.point[key] not in words for key, words in self.values.items()):
            return
        worst = min((math.log(t.value) for t in self.tried if t.value), default=0.0)
        self._study.add_trial(
            optuna.trial.create_trial(
                value=math.log(one.value) if one.value else worst - 1.0,
                params=one.point,
                distributions=self._kinds,
                constraints={"counts": 0.0 if one.value else 1.0},
            )
        )

    def ask(self, num: int) -> list[Point]:
        """Up to `num` points that were not tried yet; fewer when the space is used up."""
        chosen: list[Point] = []
        while len(chosen) < num:
            point = self._next(chosen)
            if point is None:
                break
            chosen.append(point)
        return chosen

    def _next(self, chosen: Sequence[Point]) -> Point | None:
        taken = [one.point for one in self.tried] + list(chosen)
        while self._screen:
            point = self._screen.pop(0)
            if point not in taken and not self.shunned(point):
                return point
        if next(self._turn) % 2 == 0 and (best := self._best(taken)) is not None:
            return best
        for _ in range(_ASKS):
            trial = self._study.ask(self._kinds)
            point = {key: str(value) for key, value in trial.params.items()}
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
            if point not in taken and not self.shunned(point):
                return point
        return self._best(taken) or self._any(taken)

    def _all(self) -> list[Point]:
        if math.prod(len(words) for words in self.values.values()) > _ENUMERATED:
            return []
        every = itertools.product(*self.values.values())
        return [dict(zip(self.values, words, strict=True)) for words in every]

    def _best(self, taken: Sequence[Point]) -> Point | None:
        """The point not tried yet that the fitted sum likes best, pairs that worked well included."""
        model = effects.fit([t for t in self.tried if self._inside(t.point)], self.reference)
        left = [point for point in self._all() if point not in taken and not self.shunned(point)]
        if model is None or not left:
            return None
        return max(left, key=lambda point: model.predicted(self._known(point)))

    def _known(self, point: Point) -> Point:
        """With values never seen to work as the reference has them: nothing is known for or against them."""
        seen = {(key, t.point[key]) for t in self.tried if t.value for key in self.values}
        return {k: v if (k, v) in seen else self.reference.get(k, v) for k, v in point.items()}

    def _any(self, taken: Sequence[Point]) -> Point | None:
        return next((point for point in self._all() if point not in taken), None)

    def _inside(self, point: Point) -> bool:
        return set(point) == set(self.values)

    def shunned(self, point: Point) -> bool:
        """Whether a value of it, or two together, were tried twice or more and never counted."""
        words = list(point.items())
        singles = [(word,) for word in words]
        return any(self._hopeless(group) for group in [*singles, *itertools.combinations(words, 2)])

    def _hopeless(self, group: Sequence[tuple[str, str]]) -> bool:
        there = [one for one in self.tried if all(one.point.get(key) == value for key, value in group)]
        return len(there) >= _TWICE and not any(one.value for one in there)

    def best(self) -> Tried | None:
        """The best that counts."""
        return max((one for one in self.tried if one.value), key=lambda one: one.value or 0.0, default=None)
