"""What a tuning campaign is asked: the words of `tune`, and the recipes of its three runs.

search: short trials of many points; shortlist: the whole workload for the few that look best, as often as the
budget lets; proof: fresh launches on prompts that nobody tuned on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import msgspec

from harness import recipe as recipes
from harness import registry
from harness.errors import InputError
from harness.label import point
from harness.label.point import Point, Space
from harness.schema import Accelerator, Noun, Recipe, WorkloadSpec

Objective = Literal["output_throughput", "goodput", "ttft"]
TITLES: dict[str, str] = {
    "output_throughput": "output tok/s",
    "goodput": "goodput",
    "ttft": "speed of the first token (1 / TTFT p50)",
}
STAGES = ("search", "shortlist", "proof")
_SHORT = 1 / 3
"""Share of the whole workload's requests that a short trial has."""
_JUDGED = 400
"""Output tokens of a short trial, so that there is a verdict on it (200 of four requests are the least)."""
_UNSEEN = 1_000_003
"""Added to the workload's seed for the proof."""
_OWN = ("budget_s", "objective", "vendor", "only", "name")


class Campaign(Noun):
    """campaign.json of the search: all that its runs are made of."""

    recipe: Recipe
    """The variants whose settings are searched, one workload at one load, the reference that judges."""
    budget_s: float
    """Of engine time for search and shortlist together, for each variant alike; the proof comes on top."""
    objective: Objective = "output_throughput"
    vendors: tuple[str, ...] = ()
    """Variants that stand in the vendors' slot."""
    only: tuple[str, ...] = ()
    """Settings that are searched; () = all that the space has."""
    name: str = ""
    """Of what is found; "" = VARIANT-tuned-DATE."""
    proof_repeats: int = 3

    @property
    def bases(self) -> tuple[str, ...]:
        """The variants whose settings are searched."""
        return self.recipe.variants

    @property
    def scenario(self) -> str:
        """The one that is tuned for."""
        return self.recipe.scenarios[0]


def from_words(given: Sequence[str]) -> Campaign:
    """`tune VARIANT[,VARIANT] [workload] budget_s=SECONDS [objective=] [vendor=] [only=] [key=value ...]`.

    Raises InputError for what is missing, or more than one workload and load.
    """
    words = recipes.Words(given)
    own = {key: words.take(key) for key in _OWN}
    if not words.plain:
        raise InputError("tune needs variants: `just tune VARIANT,VARIANT 100/200 budget_s=900`.")
    bases = tuple(name for name in words.plain[0].split(",") if name)
    accelerators: set[Accelerator] = {registry.variant(name).accelerator for name in bases}
    repeats = words.take("repeats", "3")
    kind: Accelerator = "cpu" if "cpu" in accelerators else next(iter(accelerators))
    if len(words.plain) == 1:
        words.plain.append((recipes.CPU_SHAPES if kind == "cpu" else recipes.ORIGIN_SHAPES)[0])
    recipe = recipes.from_words(words, bases, kind)
    figure = own["objective"] or "output_throughput"
    asked = f"Which settings of {', '.join(bases)} are fastest in {figure}, and right?"
    campaign = Campaign(
        recipe=recipe if "question" in words.pairs else msgspec.structs.replace(recipe, question=asked),
        budget_s=_seconds(own["budget_s"]),
        objective=_objective(own["objective"]),
        vendors=tuple(name for name in own["vendor"].split(",") if name),
        only=tuple(name for name in own["only"].split(",") if name),
        name=own["name"],
        proof_repeats=_whole(repeats),
    )
    check(campaign)
    return campaign


def check(campaign: Campaign) -> None:
    """Raises InputError for what cannot be tuned."""
    recipe = campaign.recipe
    if len(recipe.scenarios) != 1:
        raise InputError(
            f"tune looks for the best settings of one workload at one load, not of {len(recipe.scenarios)} "
            f"({', '.join(recipe.scenarios)}); name one of each."
        )
    if recipe.reference == "none":
        raise InputError("tune needs a reference: without a verdict a fast wrong answer would win; name one.")
    if campaign.objective == "goodput" and not recipe.slo:
        raise InputError("objective=goodput needs limits: give slo.ttft_s=SECONDS or slo.tpot_s=SECONDS.")
    if recipe.loads[0].search:
        raise InputError("tune measures at one load; take search= out and name a rate or a concurrency.")
    for base in campaign.bases:
        if not space_of(campaign, base):
            engine = registry.variant(base).engine
            raise InputError(
                f"{base} has nothing to tune: engines/{engine}.space.toml has no setting for it; add one."
            )
    for name in campaign.vendors:
        registry.variant(name)


def space_of(campaign: Campaign, base: str) -> Space:
    """The settings that are searched for a variant: those of its engine that have two values here."""
    variant = registry.variant(base)
    known = point.of(registry.space(variant.engine), variant)
    left = {
        key: setting
        for key, setting in known.items()
        if len(setting.values) > 1 and not (setting.layout and variant.parallel.num_gpus == 1)
    }
    unknown = [key for key in campaign.only if not any(key in _known(other) for other in campaign.bases)]
    if unknown:
        raise InputError(f"only={unknown[0]} is no setting here; there are {', '.join(left)}.")
    return {key: setting for key, setting in left.items() if not campaign.only or key in campaign.only}


def _known(base: str) -> Space:
    return registry.space(registry.variant(base).engine)


def whole_point(campaign: Campaign, base: str, name: str) -> Point:
    """Every searched setting of a point: what its name changes, else as the base has it."""
    variant, space = registry.variant(base), space_of(campaign, base)
    now = {
        key: value
        for key, value in point.current(variant, registry.space(variant.engine)).items()
        if key in space
    }
    _, changed = point.parse(name)
    if changed is None:
        return {key: now[key] if s.layout else point.spelled(s.default) for key, s in space.items()}
    return {**now, **{key: value for key, value in changed.items() if key in space}}


def named(campaign: Campaign, base: str, chosen: Point) -> str:
    """The name of a point: only what differs from the base stands in it."""
    now = whole_point(campaign, base, base)
    return point.name(base, {key: value for key, value in chosen.items() if value != now[key]})


def stage(campaign: Campaign, which: str, variants: Sequence[str]) -> Recipe:
    """The recipe of one of STAGES with these variants."""
    spec, recipe = campaign.recipe.workloads[0], campaign.recipe
    judged = math.ceil(_JUDGED / max(1, registry.workload(spec.file).longest(spec)[1]))
    short = max(recipe.loads[0].max_concurrency or 1, judged, round(spec.num_prompts * _SHORT))
    changed: dict[str, WorkloadSpec] = {
        "search": msgspec.structs.replace(spec, num_prompts=min(short, spec.num_prompts)),
        "shortlist": spec,
        "proof": msgspec.structs.replace(spec, seed=spec.seed + _UNSEEN),
    }
    about = {
        "search": "short trials of many points",
        "shortlist": "the whole workload for those that look best",
        "proof": "fresh launches, prompts that nobody tuned on",
    }
    return msgspec.structs.replace(
        recipe,
        question=f"{recipe.question} ({which}: {about[which]})",
        variants=tuple(dict.fromkeys(variants)),
        workloads=(changed[which],),
        baseline=point.default(campaign.bases[0]),
        repeats=campaign.proof_repeats if which == "proof" else 1,
        options=msgspec.structs.replace(recipe.options, tuning=which),
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if seconds <= 0:
        raise InputError(
            f"budget_s={text} is no budget; give seconds of engine time for each variant: budget_s=1800."
        )
    return seconds


def _whole(text: str) -> int:
    if not text.isdigit() or int(text) < 2:
        raise InputError(f"repeats={text}: the proof needs 2 restarts or more of each; 3 are usual.")
    return int(text)


def _objective(text: str) -> Objective:
    found: Objective | None = next(
        (one for one in get_args(Objective) if one == (text or "output_throughput")), None
    )
    if found is None:
        raise InputError(f"objective={text} is not known; there are {', '.join(get_args(Objective))}.")
    return found
