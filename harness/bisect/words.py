"""What a bisection has to say: the release, its evidence, what was left out. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from harness.bisect.drift import Difference
from harness.bisect.evidence import METRICS, Metric
from harness.bisect.judging import Judge
from harness.bisect.search import Outcome
from harness.label import release
from harness.label.dialect import version_key

HEAD = "Bisect: "
_REASON = 200
"""Characters of why a version does not start."""


def lines(outcome: Outcome, variants: Sequence[str], metric: str) -> tuple[str, ...]:
    """The outcome in one sentence, then a line for every decision that led to it."""
    asked = METRICS[metric]
    return (
        HEAD + _sentence(outcome, variants, asked),
        *_turns(outcome, variants),
        *_range(outcome, variants),
    )


def _sentence(outcome: Outcome, variants: Sequence[str], asked: Metric) -> str:
    good, bad = variants[outcome.good], variants[outcome.bad]
    judge = outcome.judge
    if outcome.status == "unfinished" or judge is None:
        return f"undecided between {good} and {bad}: {outcome.why}"
    if outcome.status == "guilty":
        evidence = _evidence(outcome.good, outcome.bad, judge, asked)
        return f"{_newer(good, bad)} is the release: {evidence} in {bad} against {good}, its neighbour"
    why = outcome.why
    if outcome.why == "the two ends do not differ" and asked.speed:
        half = math.expm1(judge.between_ends().half)
        why = (
            f"the two ends do not differ by more than noise ({_change(judge.between_ends())} after "
            f"{judge.count(0)} restarts); a change below {half:.1%} cannot be told from it"
        )
    elif outcome.why == "the two ends do not differ":
        why = f"{asked.words} is the same at both ends ({_answer(outcome.good, judge)})"
    return f"undecided between {good} and {bad}: {why}"


def _evidence(good: int, bad: int, judge: Judge, asked: Metric) -> str:
    if not asked.speed:
        return f"{asked.words}: {_answer(bad, judge)} instead of {_answer(good, judge)}"
    whole = judge.between_ends()
    part = judge.difference(good, bad)
    share = "" if (good, bad) == (0, judge.last) else f"; the ends differ by {math.expm1(whole.mean):+.1%}"
    return (
        f"{asked.words} {_change(part)}, {judge.count(good)} and {judge.count(bad)} restarts{share}"
        + " (more than this release changed it: bisect the rest too)"
        * (abs(whole.mean) > 1.5 * abs(part.mean))
    )


def _change(found: Difference) -> str:
    """A difference of logarithms as a change in percent with its interval."""
    if not math.isfinite(found.half):
        return "change not known"
    low, high = math.expm1(found.mean - found.half), math.expm1(found.mean + found.half)
    return f"{math.expm1(found.mean):+.1%} ({low:+.1%} to {high:+.1%})"


def _answer(version: int, judge: Judge) -> str:
    shown = [s for s in judge.seen if s.version == version and s.value is not None]
    found = [f"{s.value}{f' ({s.problem[:_REASON]})' if s.problem else ''}" for s in shown]
    return ", ".join(dict.fromkeys(found)) or "nothing"


def _turns(outcome: Outcome, variants: Sequence[str]) -> Iterator[str]:
    for turn in outcome.turns:
        what = {"good": "is with the good end", "bad": "is with the bad end", "out": "left out"}[turn.side]
        evidence = turn.why
        if outcome.judge and outcome.judge.by_speed and turn.side != "out":
            found = outcome.judge.difference(0, turn.version)
            evidence = f"{_change(found)} against the good end, {outcome.judge.count(turn.version)} restarts"
        elif outcome.judge and turn.side != "out":
            evidence = _answer(turn.version, outcome.judge)
        yield f"{variants[turn.version]} {what} (round {turn.rounds}): {evidence}"


def _range(outcome: Outcome, variants: Sequence[str]) -> Iterator[str]:
    measured = {s.version for s in outcome.judge.seen} if outcome.judge else set()
    rest = [_version(name) for place, name in enumerate(variants) if place not in measured]
    if rest and outcome.judge:
        yield f"not needed: {', '.join(rest)}"


def _newer(good: str, bad: str) -> str:
    """Which of the two came with the change: the bad one, unless the candidates run back in time."""
    return max(_version(bad), _version(good), key=version_key)


def _version(variant: str) -> str:
    parsed = release.parse(variant)
    return parsed[1] if parsed else variant
