"""Other tools' figures beside our own of the same server and load, with the difference in percent. Pure.

A second opinion is shown, not merged: it enters no row, no rank and no contrast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from harness.schema import Distribution, Metrics, Opinion, SecondOpinion, Trial

FIGURES: dict[str, tuple[Callable[[Metrics], float | None], str]] = {
    "output tok/s": (lambda m: m.output_throughput, "{:.4g}"),
    "TTFT p50 ms": (lambda m: _ms(m.ttft_s, "p50"), "{:.3g}"),
    "TTFT p99 ms": (lambda m: _ms(m.ttft_s, "p99"), "{:.3g}"),
    "TPOT p50 ms": (lambda m: _ms(m.tpot_s, "p50"), "{:.3g}"),
    "TPOT p99 ms": (lambda m: _ms(m.tpot_s, "p99"), "{:.3g}"),
    "E2EL p50 ms": (lambda m: _ms(m.e2el_s, "p50"), "{:.4g}"),
}
"""Figure -> (its value of one result, how it is written)."""
HEADERS = ("variant", "scenario", "restart", "client", "requests", "failed", *FIGURES, "remarks")
ABOUT = (
    "Other tools on the same server after our own trial, at the same load, with prompts of their own of our "
    "mean lengths; percent: their figure against ours. Over several restarts: median difference (least .. "
    "most). Never merged with ours, never ranked."
)


def _ms(distribution: Distribution | None, which: str) -> float | None:
    value = getattr(distribution, which) if distribution else None
    return None if value is None else value * 1e3


def beside(opinion: Opinion, ours: Metrics | None, trial: Trial) -> SecondOpinion:
    """One tool's opinion with our figures of the same trial and the differences, percent."""
    found = opinion.imported
    return SecondOpinion(
        variant=trial.variant,
        scenario=trial.scenario,
        restart=trial.restart,
        client=opinion.client,
        tool_version=found.tool_version if found else "",
        ours=ours,
        theirs=found.metrics if found else None,
        differences=differences(ours, found.metrics) if found and ours else {},
        caveats=(*found.caveats, *filter(None, (found.incomparable,))) if found else (),
        problem=opinion.problem,
    )


def differences(ours: Metrics, theirs: Metrics) -> dict[str, float]:
    """Figure -> (theirs / ours - 1) x 100, where both have it and ours is not 0."""
    found = {}
    for name, (value, _) in FIGURES.items():
        mine, other = value(ours), value(theirs)
        if mine and other is not None:
            found[name] = (other / mine - 1) * 100
    return found


def rows(opinions: Sequence[SecondOpinion]) -> list[tuple[str, ...]]:
    """Cells under HEADERS: our line, then a line of each tool; after several restarts a line over all."""
    lines: list[tuple[str, ...]] = []
    before: tuple[str, str, int] | None = None
    for scenario in _parted(opinions, lambda one: (one.variant, one.scenario)):
        for one in scenario:
            trial = (one.variant, one.scenario, one.restart)
            if one.ours and trial != before:
                lines.append(_cells(one, "ours", one.ours))
            before = trial
            lines.append(_cells(one, f"{one.client} {one.tool_version}".strip(), one.theirs))
        for told in _parted(scenario, lambda one: one.client):
            if spread := _spread(told):
                cells = (spread.get(name, "-") for name in FIGURES)
                named = (told[0].variant, told[0].scenario, f"all {len(_spoken(told))}", told[0].client)
                lines.append((*named, "-", "-", *cells, ""))
    return lines


def _parted(
    opinions: Sequence[SecondOpinion], key: Callable[[SecondOpinion], object]
) -> list[list[SecondOpinion]]:
    """The opinions of each key, keys in order of their first appearance."""
    parts: dict[object, list[SecondOpinion]] = {}
    for one in opinions:
        parts.setdefault(key(one), []).append(one)
    return list(parts.values())


def _spoken(told: Sequence[SecondOpinion]) -> list[SecondOpinion]:
    return [one for one in told if one.theirs is not None]


def _spread(told: Sequence[SecondOpinion]) -> dict[str, str]:
    """Figure -> median difference of one tool over its restarts, with the range; {} for a single one."""
    spoken, found = _spoken(told), {}
    for name in FIGURES if len(spoken) > 1 else ():
        differing = [one.differences[name] for one in spoken if name in one.differences]
        if differing:
            found[name] = f"{median(differing):+.1f} % ({min(differing):+.1f} .. {max(differing):+.1f})"
    return found


def _cells(one: SecondOpinion, who: str, found: Metrics | None) -> tuple[str, ...]:
    named = (one.variant, one.scenario, str(one.restart), who)
    if found is None:
        return (*named, *["-"] * (2 + len(FIGURES)), one.problem)
    is_ours = found is one.ours
    figures = [_figure(one, name, found, is_ours) for name in FIGURES]
    remarks = "" if is_ours else "; ".join(one.caveats)
    return (*named, str(found.completed + found.failed), str(found.failed), *figures, remarks)


def _figure(one: SecondOpinion, name: str, found: Metrics, is_ours: bool) -> str:
    value, form = FIGURES[name]
    number = value(found)
    if number is None:
        return "-"
    told = form.format(number)
    return told if is_ours or name not in one.differences else f"{told} ({one.differences[name]:+.1f} %)"


def lines(opinions: Sequence[SecondOpinion]) -> list[str]:
    """One line per variant, scenario and tool for a terminal."""
    return [_line(told) for told in _parted(opinions, lambda o: (o.variant, o.scenario, o.client))]


def _line(told: Sequence[SecondOpinion]) -> str:
    first = (_spoken(told) or told)[0]
    name = f"{first.variant} at {first.scenario}: second opinion of {first.client} {first.tool_version}"
    name = name.rstrip()
    if first.theirs is None:
        return f"{name} is missing: {first.problem}"
    if spread := _spread(told):
        figures = ", ".join(f"{figure} {difference}" for figure, difference in spread.items())
        return f"{name}, {len(_spoken(told))} restarts, against ours: {figures}"
    figures = ", ".join(
        f"{figure} {_figure(first, figure, first.theirs, False)}"
        for figure, (value, _) in FIGURES.items()
        if value(first.theirs) is not None
    )
    return f"{name}: {figures}"
