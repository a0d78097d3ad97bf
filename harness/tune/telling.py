"""What a campaign found, in figures and words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from harness import registry
from harness.label import point
from harness.schema import Comparison, Interval, Noun
from harness.tune import effects, outcomes
from harness.tune.campaign import STAGES, TITLES, Campaign, whole_point
from harness.tune.effects import Effect, Interaction

EQUAL = 0.05
"""Largest difference of spends that counts as an equal budget."""


class Outcome(Noun):
    """What was found for one variant of a campaign."""

    base: str
    winner: str
    """The point that is kept; the engine's own default where nothing beat it, or nothing was right."""
    settings: dict[str, str] = msgspec.field(default_factory=dict)
    """What the winner has otherwise than the engine by itself."""
    num_tried: int = 0
    num_counted: int = 0
    """Of those: ran, right, valid."""
    spent_s: float = 0.0
    """Engine time of search and shortlist."""
    shortlist: Interval | None = None
    """Winner / default as it was chosen."""
    proof: Interval | None = None
    """Winner / default on fresh launches and unseen prompts."""
    heldout_loss: float | None = None
    """1 - proof / shortlist: what of the gain was luck, or of the prompts."""
    regret: float | None = None
    """What the best of the proof has over the winner, as a share: 0 = none is better."""
    verdict: str = ""
    """Of the winner's output in the proof."""
    effects: tuple[Effect, ...] = ()
    interactions: tuple[Interaction, ...] = ()
    words: tuple[str, ...] = ()


class Account(Noun):
    """campaign.told.json of the proof: everything that the report says of a campaign."""

    campaign: Campaign
    runs: dict[str, str]
    """Stage -> run id."""
    found: tuple[Outcome, ...]
    slots: tuple[str, ...] = ()
    """Default, vendor, tuned of each engine, and the best of each in order, in words."""

    @property
    def spends(self) -> str:
        """What each variant spent, and whether that was equal."""
        spent = {one.base: one.spent_s for one in self.found}
        said = ", ".join(f"{base} {seconds:.0f} s" for base, seconds in spent.items())
        line = f"Engine time spent: {said} of {self.campaign.budget_s:.0f} s each"
        if len(spent) < 2:
            return line
        apart = max(spent.values()) / max(min(spent.values()), 1e-9) - 1
        judged = "equal within 5 %" if apart <= EQUAL else f"{100 * apart:.0f} % apart: give more budget_s="
        return f"{line} ({judged})"


class Runs(NamedTuple):
    """The comparisons of a campaign's three runs, ratios against one engine's default."""

    search: Comparison
    shortlist: Comparison
    proof: Comparison


def account(campaign: Campaign, runs: Mapping[str, Runs], spent: Mapping[str, float]) -> Account:
    """The whole; `runs` and `spent` (engine time, seconds) are by variant."""
    found = tuple(_outcome(campaign, base, runs[base], spent[base]) for base in campaign.bases)
    one = runs[campaign.bases[0]]
    return Account(
        campaign=campaign,
        runs={stage: getattr(one, stage).run_id for stage in STAGES},
        found=found,
        slots=tuple(slots(campaign, one.proof, {each.base: each.winner for each in found})),
    )


def winner(campaign: Campaign, base: str, runs: Runs) -> str:
    """The best of the shortlist that is right in the proof too; the default where none is."""
    proven = dict(outcomes.ranked(campaign, runs.proof))
    default = point.default(base)
    order = [name for name, _ in outcomes.ranked(campaign, runs.shortlist) if outcomes.base_of(name) == base]
    return next((name for name in order if name in proven), default)


def _outcome(campaign: Campaign, base: str, runs: Runs, spent_s: float) -> Outcome:
    default, chosen = point.default(base), winner(campaign, base, runs)
    tried = list(outcomes.tried(campaign, base, runs.search).values())
    reference = whole_point(campaign, base, default)
    proven = outcomes.ranked(campaign, runs.proof)
    here = {name: value for name, value in proven if outcomes.base_of(name) == base}
    before, after = (_ratio(campaign, one, chosen, default) for one in (runs.shortlist, runs.proof))
    settings = {k: v for k, v in whole_point(campaign, base, chosen).items() if v != reference[k]}
    row = next((r for r in runs.proof.rows if r.variant == chosen), None)
    found = Outcome(
        base=base,
        winner=chosen,
        settings=settings,
        num_tried=len(tried),
        num_counted=sum(one.value is not None for one in tried),
        spent_s=spent_s,
        shortlist=before,
        proof=after,
        heldout_loss=1 - after.mean / before.mean if before and after and chosen != default else None,
        regret=max(here.values()) / here[chosen] - 1 if chosen in here else None,
        verdict=row.agreement.verdict if row and row.agreement else "",
        effects=effects.effects(tried, reference),
        interactions=effects.interactions(tried, reference),
    )
    return _worded(found, TITLES[campaign.objective])


def _ratio(campaign: Campaign, comparison: Comparison, name: str, default: str) -> Interval | None:
    """Winner / default of the same engine; with an interval where the run's verdicts have one."""
    if name == default:
        return None
    contrast = outcomes.contrast(campaign, comparison, name)
    if contrast and contrast.baseline == default and contrast.ratio:
        ratio = contrast.ratio
        if not contrast.lower_is_better:
            return ratio
        return Interval(mean=1 / ratio.mean, low=1 / ratio.high, high=1 / ratio.low, num=ratio.num)
    values = dict(outcomes.ranked(campaign, comparison))
    if name not in values or default not in values:
        return None
    mean = values[name] / values[default]
    return Interval(mean=mean, low=mean, high=mean, num=1)


def _worded(found: Outcome, title: str) -> Outcome:
    lost = found.num_tried - found.num_counted
    lines = [
        f"{found.base}: {found.winner} after {found.num_tried} points, {lost} of which did not count; it "
        f"sets {point.text(found.settings)}"
    ]
    if found.proof:
        close = found.proof.low <= 1.0 <= found.proof.high
        lines.append(
            f"On unseen prompts, freshly launched: {_span(found.proof)} its engine's default in {title}"
            + (", too close to call" if close else "")
            + (f", verdict {found.verdict}" if found.verdict else "")
        )
    if found.heldout_loss is not None and found.shortlist:
        lines.append(
            f"It was chosen at {_span(found.shortlist)}: held-out loss {100 * found.heldout_loss:.1f} %"
        )
    if found.regret is not None:
        lines.append(f"Regret among what was relaunched: {100 * found.regret:.1f} %")
    lines += [effects.sentence(effect, title) for effect in found.effects]
    lines += [f"together: {each.words} (p {each.p_value:.2g})" for each in found.interactions]
    return msgspec.structs.replace(found, words=tuple(lines))


def _span(ratio: Interval) -> str:
    return f"{ratio.mean:.2f}x" + (f" ({ratio.low:.2f}-{ratio.high:.2f})" if ratio.low < ratio.high else "")


def slots(campaign: Campaign, proof: Comparison, tuned: Mapping[str, str]) -> list[str]:
    """A line for each variant's three slots, then the best of each in order."""
    values = dict(outcomes.ranked(campaign, proof))
    title = TITLES[campaign.objective]
    lines: list[str] = []
    best: list[tuple[float, str, str]] = []
    for base, chosen in tuned.items():
        engine = registry.variant(base).engine
        vendors = [name for name in campaign.vendors if registry.variant(name).engine == engine]
        filled = {"default": [point.default(base)], "vendor": vendors, "tuned": [chosen]}
        said = [
            f"{slot}: {', '.join(_valued(proof, name, values) for name in names) or 'none was given'}"
            for slot, names in filled.items()
        ]
        lines.append(f"{base}, {title}: {'; '.join(said)}")
        mine = [(values[name], name) for names in filled.values() for name in names if name in values]
        best += [(*max(mine), base)] if mine else []
    order = [f"{name} {value:.4g} (of {base})" for value, name, base in sorted(best, reverse=True)]
    lines.append("The best of each: " + "; ".join(f"{n}. {one}" for n, one in enumerate(order, 1)))
    return lines


def _valued(proof: Comparison, name: str, values: Mapping[str, float]) -> str:
    if name in values:
        return f"{name} {values[name]:.4g}"
    row = next((row for row in proof.rows if row.variant == name), None)
    return f"{name} not ranked ({outcomes.why(row) if row else 'not measured'})"
