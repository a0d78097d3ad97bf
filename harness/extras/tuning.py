"""tuning=: a run that is part of a tuning campaign shows what the campaign found, in report.html."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from harness import store
from harness.errors import InputError
from harness.reporting import plots
from harness.reporting.report_html import Section
from harness.schema import Recipe
from harness.tune.campaign import STAGES, TITLES
from harness.tune.effects import Effect
from harness.tune.telling import Account, Outcome

FILE = "campaign.told.json"
HEADERS = ("variant", "setting", "value", "against", "effect", "95 % interval", "points", "did not count")


def check(recipe: Recipe) -> None:
    """Raises InputError for a word that is no part of a campaign."""
    if recipe.options.tuning not in STAGES:
        raise InputError(
            f"tuning={recipe.options.tuning} is set by `just tune`, to {', '.join(STAGES)}; leave it out."
        )


def section(run: Path, order: Sequence[str]) -> Section:
    """Slots, what mattered, and one sentence for each flag; empty until the campaign has ended."""
    if not (run / FILE).exists():
        return Section("Tuning")
    told = store.read(run / FILE, Account)
    return Section(
        "Tuning",
        "What the campaign found: default, vendor and tuned of each engine on prompts that nobody tuned on, "
        "and what each setting does to the figure, larger is better (least squares on its logarithm over the "
        "points of the search that counted).",
        plots=[_picture(found, TITLES[told.campaign.objective]) for found in told.found if _shown(found)],
        headers=HEADERS,
        rows=[_row(found.base, effect) for found in told.found for effect in found.effects],
        lines=[*told.slots, told.spends, *(line for found in told.found for line in found.words)],
    )


def _row(base: str, effect: Effect) -> tuple[str, ...]:
    ratio = effect.ratio
    wide = ratio is not None and ratio.low < ratio.high
    lost = "; ".join(f"{num}: {why}" for why, num in effect.failed.items())
    return (
        *(base, effect.setting, effect.value, effect.against),
        f"{ratio.mean:.2f}x" if ratio else "-",
        f"{ratio.low:.2f}-{ratio.high:.2f}" if ratio and wide else "-",
        str(effect.num),
        lost or "-",
    )


def _shown(found: Outcome) -> list[Effect]:
    return [effect for effect in found.effects if effect.ratio]


def _picture(found: Outcome, title: str) -> str:
    """Factors with their intervals, one line a value; 1 = as the reference value."""
    shown = _shown(found)

    def draw(plot: Axes) -> None:
        for place, effect in enumerate(reversed(shown)):
            ratio = effect.ratio
            assert ratio
            colour = plots.COLOURS[0] if effect.clear else plots.COLOURS[-1]
            plot.plot([ratio.low, ratio.high], [place, place], color=colour)
            plot.plot([ratio.mean], [place], marker="o", color=colour, markersize=3.5)
        plot.set_yticks(range(len(shown)), [f"{e.setting} {e.value}" for e in reversed(shown)])
        plot.axvline(1.0, color=plots.COLOURS[-1], linestyle="--", linewidth=0.8)

    return plots.picture(f"what mattered, {found.base}", (f"x {title}", ""), draw)
