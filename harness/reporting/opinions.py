"""Other tools' figures beside our own of the same server and load, with the difference in percent. Pure.

A second opinion is shown, not merged: it enters no row, no rank and no contrast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
HEADERS = ("variant", "scenario", "client", "requests", "failed", *FIGURES, "remarks")
ABOUT = (
    "Other tools on the same server after our own trial, at the same load, with prompts of their own of our "
    "mean lengths; percent: their figure against ours. Never merged with ours, never ranked."
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
    """Cells under HEADERS: our line, then a line of each tool."""
    lines: list[tuple[str, ...]] = []
    before: tuple[str, str, int] | None = None
    for one in opinions:
        trial = (one.variant, one.scenario, one.restart)
        if one.ours and trial != before:
            lines.append(_cells(one, "ours", one.ours))
        before = trial
        lines.append(_cells(one, f"{one.client} {one.tool_version}".strip(), one.theirs))
    return lines


def _cells(one: SecondOpinion, who: str, found: Metrics | None) -> tuple[str, ...]:
    named = (one.variant, one.scenario, who)
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
    """One line per opinion for a terminal."""
    said = []
    for one in opinions:
        name = f"{one.variant} at {one.scenario}: second opinion of {one.client} {one.tool_version}".rstrip()
        if one.theirs is None:
            said.append(f"{name} is missing: {one.problem}")
            continue
        figures = [
            f"{figure} {_figure(one, figure, one.theirs, False)}"
            for figure, (value, _) in FIGURES.items()
            if value(one.theirs) is not None
        ]
        said.append(f"{name}: {', '.join(figures)}")
    return said
