"""The answer first: a sentence per scenario on who is better by how much in what, or what it takes. Pure."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from harness.escape import plain
from harness.numbers.verdicts import decided
from harness.reporting.cells import merit, milliseconds, number
from harness.schema import Comparison, Contrast, Interval, Row

SHORT = {
    "output_throughput": "output tok/s",
    "speed_per_user": "tok/s per user",
    "due_ttft_p50": "TTFT",
    "tpot_p50": "TPOT",
    "due_e2el_p50": "E2EL",
    "goodput_rate": "rate within the SLO",
}
"""Figure -> its name in a sentence; others have the name of their contrast."""
LONGEST = 1200
"""Characters of a sentence."""
MOST_RESTARTS = 20
"""Beyond this many restarts a difference is not worth their time, and is said to be small."""


class Answer(NamedTuple):
    """What one scenario says, at three lengths."""

    scenario: str
    full: str
    """Every decided figure with its interval."""
    shorter: str
    """Without the intervals."""
    brief: str
    """The widest margin in the first decided figure only."""
    decided: bool

    @property
    def full_line(self) -> str:
        """The scenario and all of it."""
        return f"{self.scenario}: {self.full}"


def answers(comparison: Comparison) -> list[Answer]:
    """One per scenario, in the table's order; those that say the same are one."""
    groups: dict[str, list[Row]] = {}
    for row in comparison.rows:
        groups.setdefault(row.scenario, []).append(row)
    found = [
        _answer(scenario, rows, [c for c in comparison.contrasts if c.scenario == scenario and c.primary])
        for scenario, rows in groups.items()
    ]
    alike: dict[str, list[Answer]] = {}
    for one in found:
        alike.setdefault(one.full, []).append(one)
    return [
        group[0]._replace(scenario=_together([one.scenario for one in group])) for group in alike.values()
    ]


def _together(scenarios: Sequence[str]) -> str:
    """Up to two scenarios by name; of more, the first and how many."""
    if len(scenarios) <= 2:
        return " and ".join(scenarios)
    return f"{scenarios[0]} and {len(scenarios) - 1} others"


def lines(comparison: Comparison, width: int, room: int) -> list[str]:
    """The sentences for a terminal: as long as all of them fit into `room` lines of `width`."""
    found = answers(comparison)
    folded: list[str] = []
    for length in ("full", "shorter", "brief"):
        texts = [plain(f"{one.scenario}: {getattr(one, length)}", LONGEST) for one in found]
        folded = [line for text in texts for line in fold(text, width)]
        if len(folded) <= room:
            break
    return folded


def fold(text: str, width: int) -> list[str]:
    """A sentence over several lines, the later ones indented."""
    return textwrap.wrap(text, width, subsequent_indent="  ", break_on_hyphens=False) or [""]


def _answer(scenario: str, rows: Sequence[Row], contrasts: Sequence[Contrast]) -> Answer:
    counted = [row for row in rows if row.rankable]
    judged = all(row.agreement and row.agreement.verdict == "PASS" for row in counted)
    remark = "" if judged else " (output not judged)"
    sure = [contrast for contrast in contrasts if decided(contrast)]
    if sure:
        texts = ("; ".join(_pairs(sure, True)), "; ".join(_pairs(sure, False)), _brief(sure))
    elif contrasts:
        texts = _undecided(contrasts)
    elif counted:
        best = max(counted, key=merit)
        told = f"only {best.variant} counts, at {_merit(best)}"
        if len(counted) > 1:
            told = f"{best.variant} is first of {len(counted)}, at {_merit(best)}; no ratio was made"
        texts = (told,) * 3
    else:
        texts = ("no row counts; the reasons stand below",) * 3
    full, shorter, brief = (text + remark for text in texts)
    return Answer(scenario, full, shorter, brief, bool(sure))


def _merit(row: Row) -> str:
    """The figure that ranks it, in words; of a share within the SLO, the wait."""
    if not row.ranked_by:
        rate = row.output_throughput
        return f"{number(rate.mean) if rate else '-'} output tok/s"
    first = row.ranked_by[-1]
    told = f"{milliseconds(first.value)} ms" if first.lower_is_better else f"{number(first.value)} requests/s"
    return f"{first.title} {told}"


class Side(NamedTuple):
    """A decided contrast told from the side of who is better."""

    better: str
    worse: str
    figure: str
    factor: Interval
    """Above 1."""
    lower_is_better: bool

    def words(self, spans: bool) -> str:
        """1.33x output tok/s (1.20-1.47); TTFT 2.1x shorter."""
        span = f" ({self.factor.low:.2f}-{self.factor.high:.2f})" if spans else ""
        if self.lower_is_better:
            return f"{self.figure} {self.factor.mean:.2f}x shorter{span}"
        return f"{self.factor.mean:.2f}x {self.figure}{span}"


def side(contrast: Contrast) -> Side | None:
    """None where there is no ratio."""
    estimate = contrast.ratio
    if estimate is None:
        return None
    ahead = (estimate.mean > 1.0) != contrast.lower_is_better
    names = (contrast.variant, contrast.baseline) if ahead else (contrast.baseline, contrast.variant)
    above = estimate
    if estimate.mean < 1.0:
        low = 1.0 / estimate.low if estimate.low > 0 else math.inf
        above = Interval(mean=1.0 / estimate.mean, low=1.0 / estimate.high, high=low, num=estimate.num)
    return Side(*names, name(contrast), above, contrast.lower_is_better)


def _pairs(sure: Iterable[Contrast], spans: bool) -> Iterable[str]:
    """ "a is faster than b: 1.33x output tok/s, TTFT 2.1x shorter", once per pair and direction."""
    groups: dict[tuple[str, str], list[Side]] = {}
    for one in filter(None, map(side, sure)):
        groups.setdefault((one.better, one.worse), []).append(one)
    for (better, worse), found in groups.items():
        yield f"{better} is faster than {worse}: {', '.join(one.words(spans) for one in found)}"


def _brief(sure: Iterable[Contrast]) -> str:
    """ "a 1.33x faster than b (output tok/s)": the widest margin in the first decided figure."""
    sides = [one for one in map(side, sure) if one]
    widest = max((one for one in sides if one.figure == sides[0].figure), key=lambda one: one.factor.mean)
    return f"{widest.better} {widest.factor.mean:.2f}x faster than {widest.worse} ({widest.figure})"


def name(contrast: Contrast) -> str:
    """The figure in a sentence."""
    return SHORT.get(contrast.metric, contrast.title)


def _undecided(contrasts: Sequence[Contrast]) -> tuple[str, str, str]:
    """What it would take to decide the figure that is nearest to it; the last is the brief one."""
    known = [c for c in contrasts if c.ratio and c.ratio.num > 1 and (c.detectable or 1.0) > 1.0]
    if not known:
        return ("nothing decided: one restart each; repeats=3 gives intervals",) * 3
    nearest = min(known, key=_restarts)
    needed = _restarts(nearest)
    if needed > MOST_RESTARTS:
        return (f"nothing decided; {nearest.detectable:.2f}x in {name(nearest)} would have shown",) * 3
    told = side(nearest)
    seen = f"{told.better}'s {told.words(False)}" if told else name(nearest)
    took = f"would take about {needed} restarts"
    factor = f"{told.factor.mean:.2f}x " if told else ""
    text = f"nothing decided; {seen} {took}"
    return text, text, f"nothing decided; {factor}{took}"


def _restarts(contrast: Contrast) -> int:
    """How many would decide the difference that was seen: what shows shrinks with their square root."""
    mean = contrast.ratio.mean if contrast.ratio else 1.0
    seen, shows = abs(math.log(mean)) if mean > 0 else 0.0, math.log(contrast.detectable or 2.0)
    num = contrast.ratio.num if contrast.ratio else 1
    return math.ceil(min(num * (shows / seen) ** 2, 1e6)) if seen > 0 else 1_000_000
