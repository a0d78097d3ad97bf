"""The bisection itself: which version is measured next, and when a release is named. Pure.

campaign() is a generator: it yields (version, round), is sent what that restart showed, and returns how it
ended. A run drives it with engines, a report with stored trials, a test with random numbers; from the same
showings it takes the same turns, so an interrupted run goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Literal, NamedTuple

from harness.bisect.judging import MOST, Judge, Seen

_LONGEST = 4
"""Rounds of a whole bisection, in those that one decision may take."""
Visit = tuple[int, int]
"""(version, round)."""


class Turn(NamedTuple):
    """One decision: what a version was taken for once `rounds` rounds were over."""

    version: int
    side: Literal["good", "bad", "out"]
    why: str
    rounds: int


class Outcome(NamedTuple):
    """How it ended. good, bad: the last good and the first bad version; neighbours where one is guilty."""

    status: Literal["guilty", "undecided", "unfinished"]
    good: int
    bad: int
    why: str = ""
    turns: tuple[Turn, ...] = ()
    judge: Judge | None = None


class _Bracket(NamedTuple):
    good: int
    bad: int
    turns: tuple[Turn, ...]
    asks: tuple[int, ...] = ()
    """Versions whose next round is needed."""


def campaign(num: int, most: int = MOST) -> Generator[Visit, Seen, Outcome]:
    """Bisect `num` >= 2 versions of which the first is good and the last bad."""
    seen: list[Seen] = []
    told: dict[int, Turn] = {}
    number = 0
    while True:
        found = _decided(Judge(seen, num, most), num, told, number)
        if isinstance(found, Outcome):
            return found
        if number >= _LONGEST * most:
            why = f"{number} rounds did not suffice"
            return Outcome("undecided", 0, num - 1, why, _ordered(told), Judge(seen, num, most))
        number += 1
        # A B C, C B A: within a round the host may drift too.
        for version in found if number % 2 else reversed(found):
            shown = yield version, number
            seen.append(shown)
            if shown.value is None and version not in (0, num - 1):
                break


def driven(num: int, most: int, showing: Callable[[int, int], Seen | None]) -> Outcome:
    """The campaign over what is known: showing(version, round), None where that was not measured."""
    course = campaign(num, most)
    try:
        version, number = next(course)
        while True:
            shown = showing(version, number)
            if shown is None:
                return Outcome("unfinished", 0, num - 1, "it was stopped before it could tell")
            version, number = course.send(shown)
    except StopIteration as ended:
        outcome: Outcome = ended.value
        return outcome


def _decided(judge: Judge, num: int, told: dict[int, Turn], rounds: int) -> Outcome | tuple[int, ...]:
    """The outcome, or the versions of the next round."""
    last = num - 1
    for end in (0, last):
        if why := judge.unusable(end):
            return Outcome("undecided", 0, last, f"{'bad' if end else 'good'} end: {why}", judge=judge)
    ends = judge.ends()
    if ends == "more":
        return (0, last)
    if ends == "same":
        return Outcome("undecided", 0, last, "the two ends do not differ", _ordered(told), judge)
    bracket = _narrowed(judge, last, told, rounds)
    if bracket.asks:
        return bracket.asks
    good, bad, turns = bracket.good, bracket.bad, bracket.turns
    if bad - good > 1:
        return Outcome("undecided", good, bad, "what lies between them cannot be judged", turns, judge)
    apart = judge.neighbours(good, bad)
    if apart == "more":
        return (good, bad)
    if apart == "same":
        return Outcome("undecided", good, bad, "these neighbours do not differ", turns, judge)
    return Outcome("guilty", good, bad, "", turns, judge)


def _narrowed(judge: Judge, last: int, told: dict[int, Turn], rounds: int) -> _Bracket:
    """As close as what was seen brings the last good and the first bad version together."""
    good, bad = 0, last
    now: dict[int, Turn] = {}
    left = list(range(1, last))
    while left:
        middle = min(left, key=lambda v: (abs(2 * v - good - bad), v))
        stand = judge.stand(middle)
        if not stand.side:
            told.update(now)
            asks = (0, middle, last) if judge.by_speed else (middle,)
            return _Bracket(good, bad, (), asks)
        turn = told.get(middle)
        if turn is None or turn.side != stand.side:
            turn = Turn(middle, stand.side, stand.why, rounds)
        now[middle] = turn
        good, bad = (middle if stand.side == "good" else good), (middle if stand.side == "bad" else bad)
        left = [v for v in left if good < v < bad and v not in now]
    told.update(now)
    return _Bracket(good, bad, _ordered(now))


def _ordered(told: dict[int, Turn]) -> tuple[Turn, ...]:
    return tuple(sorted(told.values(), key=lambda turn: turn.rounds))
