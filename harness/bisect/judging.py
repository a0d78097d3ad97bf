"""Where a version stands: with the good end, with the bad end, or not yet known. Pure.

A speed is judged by intervals over restarts (harness/bisect/drift.py), anything else by being what the good
end's is or not. Error rates are those of tests/test_bisect.py's simulations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from harness.bisect.drift import Difference, Fit, Point

ALPHA = 0.05
"""Of saying that two ends differ which do not, over all looks; and of one wrong turn, over all steps."""
LOOKS = (3, 4, 6, 9, 13, 19)
"""Rounds after which the ends are compared until they differ: each look spends its share of ALPHA."""
MOST = LOOKS[-1]
_CONFIRMED = 2
"""Like answers of either neighbour before one is named."""
_ODD = 3
"""Restarts that gave no figure, or not the same answer, before a version is left out."""

Apart = Literal["apart", "more", "same"]


class Seen(NamedTuple):
    """What one restart of one version showed."""

    version: int
    """Its place among the candidates."""
    round: int
    value: float | str | None = None
    """Logarithm of the figure, or the answer; None where the restart gave none."""
    problem: str = ""
    final: bool = False
    """It does not install or start: nothing is to be learned from another try."""


class Stand(NamedTuple):
    """side: "" = more restarts are needed, "out" = it cannot be judged, for the reason why."""

    side: Literal["", "good", "bad", "out"]
    why: str = ""


class Judge:
    """All that was seen of `num` versions, the first good and the last bad; `most` rounds a question."""

    def __init__(self, seen: Sequence[Seen], num: int, most: int = MOST) -> None:
        self.seen, self.last, self.most = seen, num - 1, max(2, most)
        self.by_speed = not any(isinstance(s.value, str) for s in seen)
        points = [Point(s.version, s.round, s.value) for s in seen if isinstance(s.value, float)]
        self._fit = Fit(points) if points else None
        self._step_alpha = ALPHA / max(1, math.ceil(math.log2(max(2, self.last))))
        looks = [look for look in LOOKS if look < self.most]
        self._looks = (*looks, self.most)

    def count(self, version: int) -> int:
        """Restarts of a version that gave a figure or an answer."""
        return sum(s.version == version and s.value is not None for s in self.seen)

    def unusable(self, version: int) -> str:
        """Why nothing can be learned of a version, "" while something can."""
        problems = [s for s in self.seen if s.version == version and s.value is None]
        never = any(s.final for s in problems) and not self.count(version)
        if never or len(problems) >= _ODD:
            return problems[-1].problem
        answers = self._answers(version)
        if not self.by_speed and len(answers) >= _ODD and len(set(answers)) > 1:
            return f"answers differently from restart to restart ({', '.join(dict.fromkeys(answers))})"
        return ""

    def ends(self) -> Apart:
        """Whether good and bad differ at all."""
        if not self.by_speed:
            return self._answered(0, self.last, 1)
        count = min(self.count(0), self.count(self.last))
        early = count not in self._looks and not any(s.version not in (0, self.last) for s in self.seen)
        if early and count < self.most:
            return "more"
        if self.between_ends().side:
            return "apart"
        return "more" if count < self.most else "same"

    def stand(self, version: int) -> Stand:
        """On which side of the middle between the ends a version lies."""
        if why := self.unusable(version):
            return Stand("out", why)
        if not self.count(version):
            return Stand("")
        if not self.by_speed:
            answers = set(self._answers(version))
            if len(answers) > 1:
                return Stand("")
            return Stand("good" if answers == set(self._answers(0)) else "bad")
        side = self.from_middle(version).side
        if side:
            return Stand("bad" if side == self.between_ends().side else "good")
        if self.count(version) < self.most:
            return Stand("")
        return Stand("out", f"lies between the two ends after {self.count(version)} restarts")

    def neighbours(self, good: int, bad: int) -> Apart:
        """Whether the last good and the first bad version differ themselves."""
        if not self.by_speed:
            return self._answered(good, bad, _CONFIRMED)
        side = self.difference(good, bad).side
        if side:
            return "apart" if side == self.between_ends().side else "same"
        return "more" if min(self.count(good), self.count(bad)) < 2 * self.most else "same"

    def between_ends(self) -> Difference:
        """bad - good, at the confidence of one look."""
        return self._contrast({self.last: 1.0, 0: -1.0}, ALPHA / len(self._looks))

    def from_middle(self, version: int) -> Difference:
        """Twice the distance of a version from the middle between the ends."""
        return self._contrast({version: 2.0, 0: -1.0, self.last: -1.0}, self._step_alpha)

    def difference(self, good: int, bad: int) -> Difference:
        """bad - good of any two versions, at the confidence of a step."""
        return self._contrast({bad: 1.0, good: -1.0}, self._step_alpha)

    def _contrast(self, weights: dict[int, float], alpha: float) -> Difference:
        return self._fit.contrast(weights, alpha) if self._fit else Difference(0.0, math.inf)

    def _answers(self, version: int) -> list[str]:
        return [s.value for s in self.seen if s.version == version and isinstance(s.value, str)]

    def _answered(self, good: int, bad: int, times: int) -> Apart:
        ours, theirs = self._answers(good), self._answers(bad)
        if min(len(ours), len(theirs)) < times:
            return "more"
        return "same" if set(ours) & set(theirs) else "apart"
