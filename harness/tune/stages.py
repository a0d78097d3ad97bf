"""The three runs of a campaign, each an ordinary run folder: results/ID, ID-shortlist, ID-proof.

Budget is engine time: seconds from before a launch's calibration until its engine has stopped, for each
variant alike. A trial begins while at least half of what it is expected to take is left, so spends differ by
half a trial. What the reference takes to judge is not charged: it is the same for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, zip_longest
from pathlib import Path

import msgspec

from harness import bench, registry, store
from harness.errors import HarnessError
from harness.label import point
from harness.planned import Planned
from harness.progress import Progress
from harness.reporting import publish
from harness.schema import Comparison, Machine, Spent
from harness.tune import outcomes
from harness.tune.campaign import Campaign, named, space_of, stage, whole_point
from harness.tune.strategy import Search

SEARCHED = 0.65
"""Share of the budget for short trials; the rest is for the shortlist."""
_BATCH = 4
"""Points of each variant between two verdicts: the reference starts once for them."""
_SHORTLIST = 3
"""Points of each variant that are measured longer."""
_LONGER = 1.3
"""What a whole trial's engine life takes of a short one's, before any was seen."""
_MOST_RESTARTS = 9


class Side:
    """One variant of a campaign: its search, and what it has spent."""

    def __init__(self, campaign: Campaign, base: str, run: Path) -> None:
        self.campaign, self.base, self.run = campaign, base, run
        self.search: Search | None = None
        self.told: set[str] = set()
        self.reference = whole_point(campaign, base, point.default(base))

    def first(self) -> list[str]:
        """As the engine comes, and as the variant has it where that is something else."""
        own = whole_point(self.campaign, self.base, self.base)
        return [point.default(self.base), *([self.base] if own != self.reference else [])]

    def next(self, comparison: Comparison, batch: int = _BATCH) -> list[str]:
        """What to try next, as names; [] when the share of the budget or the space is used up."""
        done = lives_s(self.run, self.base)
        cost_s = sum(done) / len(done)
        share_s = SEARCHED * self.campaign.budget_s
        affordable = int((share_s - sum(done)) / cost_s + 0.5)
        if affordable < 1:
            return []
        if self.search is None:
            space, seed = space_of(self.campaign, self.base), self.campaign.recipe.seed
            screened = max(0, len(done) - len(self.first()))
            self.search = Search(space, self.reference, seed, int(share_s / cost_s), screened)
        for name, one in outcomes.tried(self.campaign, self.base, comparison).items():
            if name not in self.told:
                self.search.tell(one)
        self.told |= {*outcomes.tried(self.campaign, self.base, comparison)}
        return [named(self.campaign, self.base, chosen) for chosen in self.search.ask(min(batch, affordable))]


def folders(run: Path) -> list[str]:
    """Variants of a run that have spent something."""
    return sorted({path.parent.parent.name for path in run.glob("*/r*/spent.json")})


def of(base: str, run: Path) -> list[str]:
    """Points of a variant that have spent something in a run."""
    return [name for name in folders(run) if outcomes.base_of(name) == base]


def lives_s(run: Path, base: str) -> list[float]:
    """Engine time of every restart of a variant's points in a run, seconds."""
    return [store.read(p, Spent).seconds for name in of(base, run) for p in run.glob(f"{name}/r*/spent.json")]


def affords(share_s: float, spent: float, cost_s: float) -> bool:
    """Whether another restart begins: at least half of what it is expected to take is left."""
    return share_s - spent >= 0.5 * cost_s


def poorer(totals: Mapping[str, float], costs: Mapping[str, float]) -> str:
    """Who may spend another restart, so that all have spent alike: the poorest, where that brings it nearer.

    "" when none is left behind by half a restart.
    """
    base = min(totals, key=lambda one: totals[one])
    behind_s = max(totals.values()) - totals[base]
    return base if behind_s > 0.5 * costs[base] > 0 else ""


def searched(campaign: Campaign, machine: Machine, run: Path, progress: Progress) -> Comparison:
    """The search: batches of short trials, one run. Resumes from what the folder holds."""
    sides = [Side(campaign, base, run) for base in campaign.bases]
    begun = _num_lives(run)
    share_s = SEARCHED * campaign.budget_s

    def order(planned: tuple[Planned, ...]) -> Iterator[tuple[Planned, int]]:
        for each in planned:
            spent = lives_s(run, outcomes.base_of(each.variant.name))
            if len(spent) < 2 or affords(share_s, sum(spent), sum(spent) / len(spent)):
                yield each, 1

    names = _known(run) or _alternating([side.first() for side in sides])
    while True:
        recipe = stage(campaign, "search", names)
        comparison = bench.bench(recipe, machine, run, progress, order)
        names = [name for name in names if name in folders(run)]
        new = _alternating([side.next(comparison) for side in sides])
        new = [name for name in new if name not in names]
        if not new:
            break
        names += new
    store.write_recipe(run, stage(campaign, "search", names))
    publish.publish(run, comparison, to_log=_num_lives(run) > begun)
    return comparison


def _known(run: Path) -> list[str]:
    """Variants that a resumed run already asks for."""
    return list(store.read_recipe(run).variants) if (run / "recipe.toml").exists() else []


def _alternating(groups: list[list[str]]) -> list[str]:
    """A's first, B's first, A's second ...: the host's drift hits all alike."""
    return [name for name in chain.from_iterable(zip_longest(*groups)) if name is not None]


def candidates(campaign: Campaign, base: str, comparison: Comparison, num: int = _SHORTLIST) -> list[str]:
    """The best points of a variant that count, its engine's default left out."""
    ranking = [name for name, _ in outcomes.ranked(campaign, comparison) if outcomes.base_of(name) == base]
    return [name for name in ranking if name != point.default(base)][:num]


def shortlisted(
    campaign: Campaign, machine: Machine, run: Path, progress: Progress, search: Comparison
) -> Comparison:
    """The whole workload for each variant's default and best points, as often as the budget lets."""
    earlier, begun = run.with_name(search.run_id), _num_lives(run)
    before = {base: lives_s(earlier, base) for base in campaign.bases}
    groups = [[point.default(base), *candidates(campaign, base, search)] for base in campaign.bases]
    if not any(len(group) > 1 for group in groups):
        raise HarnessError(
            f"No point of {', '.join(campaign.bases)} could be ranked in {search.run_id}; its report says "
            "why of each."
        )

    def order(planned: tuple[Planned, ...]) -> Iterator[tuple[Planned, int]]:
        by_name = {each.variant.name: each for each in planned}
        for restart in range(1, _MOST_RESTARTS + 1):
            asked = _alternating(groups if restart % 2 else [group[::-1] for group in groups])
            for name in asked:
                base = outcomes.base_of(name)
                lives = lives_s(run, base)
                cost_s = _mean(lives) or _LONGER * _mean(before[base])
                # The default and the best of the search are measured whatever is left.
                if len(lives) < 2 or affords(campaign.budget_s, sum(before[base]) + sum(lives), cost_s):
                    yield by_name[name], restart
        for _ in range(_MOST_RESTARTS):
            lives_of = {base: lives_s(run, base) for base in campaign.bases}
            totals = {base: sum(before[base]) + sum(lives) for base, lives in lives_of.items()}
            base = poorer(totals, {base: _mean(lives) for base, lives in lives_of.items()})
            if not base:
                return
            name = min(of(base, run), key=lambda one: _restarts(run, one))
            yield by_name[name], _restarts(run, name) + 1

    recipe = stage(campaign, "shortlist", _alternating(groups))
    comparison = bench.bench(recipe, machine, run, progress, order)
    recipe = stage(campaign, "shortlist", [name for name in recipe.variants if name in folders(run)])
    restarts = max(int(path.parent.name[1:]) for path in run.glob("*/r*/spent.json"))
    store.write_recipe(run, msgspec.structs.replace(recipe, repeats=restarts))
    publish.publish(run, comparison, to_log=_num_lives(run) > begun)
    return comparison


def _num_lives(run: Path) -> int:
    """Restarts that a run holds: a stage that is only passed again is logged once."""
    return len(list(run.glob("*/r*/spent.json")))


def _restarts(run: Path, name: str) -> int:
    return len(list(run.glob(f"{name}/r*/spent.json")))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def proven(
    campaign: Campaign, machine: Machine, run: Path, progress: Progress, chosen: list[str]
) -> Comparison:
    """Fresh launches on unseen prompts: default, vendor, and the chosen points of each engine."""
    vendors = {name: registry.variant(name).engine for name in campaign.vendors}
    names = [
        name
        for base in campaign.bases
        for name in (
            point.default(base),
            *(v for v, engine in vendors.items() if engine == registry.variant(base).engine),
            *(n for n in chosen if outcomes.base_of(n) == base),
        )
    ]
    return bench.bench(stage(campaign, "proof", names), machine, run, progress)
