"""What a recipe amounts to on this machine: launches, trials, and the reason for whatever cannot run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from harness import launchers, models, registry, store
from harness import recipe as recipes
from harness.client import endpoint
from harness.correctness import tokenizer_identity
from harness.errors import HarnessError, InputError, ModelError
from harness.label import feasible, guards, release, scale, switches
from harness.planned import PORT, Planned, PlannedTrial, deploy, launching, render
from harness.schema import (
    Accelerator,
    Machine,
    Model,
    Options,
    Recipe,
    Variant,
    WorkloadSpec,
)

ENDPOINT = "attach"
"""The variant of a server that somebody else runs."""


def everything(given: Sequence[str], machine: Machine) -> tuple[Planned, ...]:
    """What `plan` shows: "all" is every variant, here or not, each with the shapes of its own accelerator.

    Of several nodes, all that they can share evenly.

    Of "all", what must not be launched says why in `skip`. Raises InputError and HarnessError as recipe_of()
    and plan() do.
    """
    words = recipes.Words(given)
    if words.plain[:1] not in ([], ["all"]) or {"recipe", "run_id"} & set(words.pairs):
        return plan(recipe_of(given, machine)[0], machine)
    pairs = [f"{key}={value}" for key, value in words.pairs.items()]
    kinds: dict[Accelerator, list[str]] = {}
    nodes = words.pairs.get("nodes", "1")
    for variant in registry.variants().values():
        shared = not nodes.isdecimal() or not variant.parallel.num_gpus % max(1, int(nodes))
        if shared and launchers.named(launchers.usual(variant, machine)).OWNS_SERVER:
            kinds.setdefault(variant.accelerator, []).append(variant.name)
    asked = ([",".join(names), *words.plain[1:], *pairs] for names in kinds.values())
    return tuple(p for each in asked for p in plan(recipe_of(each, machine)[0], machine, show_refused=True))


def recipe_of(given: Sequence[str], machine: Machine) -> tuple[Recipe, str]:
    """(recipe, run id) of a command line; recipe=FILE is a recipe file, run_id= resumes that run.

    Raises InputError for names, keys and values that are not understood.
    """
    words = recipes.Words(given)
    run_id, path = words.take("run_id"), words.take("recipe")
    stored = store.results_root() / run_id / "recipe.toml" if run_id else None
    if stored and stored.exists() and not (path or words.plain or words.pairs):
        return store.read_recipe(stored.parent), run_id
    if path and (words.plain or words.pairs):
        ignored = [*words.plain, *(f"{key}={value}" for key, value in words.pairs.items())][0]
        raise InputError(f"{ignored} would be ignored: {path} says what is run; write it there instead.")
    if path:
        recipe = recipes.load_recipe(Path(path))
    else:
        names, nodes = words.plain[0] if words.plain else "all", words.take("nodes", "1")
        model, launcher = words.pairs.get("model", ""), words.pairs.get("launcher", "")
        variants = on_nodes(select(names, machine, model), nodes)
        own = dict.fromkeys(shape for name in variants for shape in registry.variant(name).shapes)
        if own and not words.plain[1:] and all(registry.variant(name).shapes for name in variants):
            words.plain.append(",".join(own))
        recipe = recipes.from_words(words, variants, _kind(variants))
        return recipe, run_id or store.new_run_id("-".join([names, *words.plain[1:2], launcher]))
    return recipe, run_id or store.new_run_id(Path(path).stem)


def on_nodes(variants: tuple[str, ...], nodes: str) -> tuple[str, ...]:
    """Their names on so many machines. Raises InputError."""
    if not nodes.isdecimal() or int(nodes) < 1:
        raise InputError(f"nodes={nodes} is no number of machines; give 1 or more.")
    return tuple(scale.on_nodes(name, int(nodes)) for name in variants)


def _kind(variants: tuple[str, ...]) -> Accelerator:
    """What the variants run on, wherever they are planned; cpu when one does: shapes are the same for all."""
    kinds = [registry.variant(v).accelerator for v in variants]
    return "cpu" if "cpu" in kinds else kinds[0]


def select(names: str, machine: Machine, model: str = "") -> tuple[str, ...]:
    """Variant names of "all" (those this machine can run, the reference last) or of a comma list.

    Without `model`, "all" is the variants of one model: the largest of their defaults that fits this machine.
    Raises InputError for an unknown name, or when "all" finds nothing.
    """
    if names != "all":
        return tuple(registry.variant(n).name for n in names.split(",") if n)
    able: list[tuple[Variant, Model]] = []
    for variant in registry.variants().values():
        if variant.in_bench_all and variant.accelerator == machine.accelerator:
            known = models.resolve(model or variant.model)
            if not feasible.feasible(variant, machine, known):
                able.append((variant, known))
    if not able:
        raise InputError("No variant can run on this machine; `just doctor` says why for each.")
    largest = max((known for _, known in able), key=lambda known: known.weights_gb)
    chosen = [variant for variant, known in able if known.alias == largest.alias]
    # Last, so that everybody's output is there to be replayed while its server still runs.
    return tuple(v.name for v in sorted(chosen, key=lambda v: bool(registry.fact(v.engine, "ORACLE", False))))


def plan(recipe: Recipe, machine: Machine, *, show_refused: bool = False) -> tuple[Planned, ...]:
    """Every variant of the recipe, rendered. Touches nothing.

    Raises InputError for unknown names and HarnessError for refusals (dummy weights of a MoE ...), which
    are a planned variant's `skip` with show_refused.
    """
    _refuse_twins(recipe)
    _refuse_mixed_image(recipe)
    bare = [
        _planned(variant, _sharing(recipe, variant, machine), machine)
        for variant in map(registry.variant, recipe.variants)
    ]
    composed = tuple(_composed(planned, show_refused=show_refused) for planned in bare)
    _refuse_ignored_image(recipe, composed)
    return composed


def _composed(planned: Planned, *, show_refused: bool = False) -> Planned:
    try:
        return launching(planned, PORT, store.results_root())
    except ModelError as error:
        if not show_refused:
            raise
        command = render(planned.variant, planned.deployment)
        return msgspec.structs.replace(planned, launch=command, skip=f"refused: {error.message}")


def _sharing(recipe: Recipe, variant: Variant, machine: Machine) -> Recipe:
    """With one rule for all engines on CPU: they compute on all cores but one.

    It is left to their API server and to the client, whose time stamps are wrong where they wait for a core.
    """
    if variant.accelerator != "cpu" or not machine.num_cpus:
        return recipe
    share = {"OMP_NUM_THREADS": str(max(1, machine.num_cpus - 1))}
    return msgspec.structs.replace(recipe, env={**share, **recipe.env})


def _refuse_twins(recipe: Recipe) -> None:
    """Two trials of one name would share a folder: the second would count as done."""
    scenarios = recipe.scenarios
    named = [name for name in scenarios if not re.fullmatch(r"[\w.@+-]+", name)]
    if named:
        raise InputError(
            f"{named[0]!r} cannot name a folder; give the workload a title of letters and digits."
        )
    twins = sorted({name for name in scenarios if scenarios.count(name) > 1})
    if twins:
        raise InputError(
            f"The recipe has {twins[0]} twice; give one of the two workloads a title, or the loads runs "
            "of their own."
        )


def _refuse_mixed_image(recipe: Recipe) -> None:
    engines = sorted({registry.variant(name).engine for name in recipe.variants})
    if recipe.image and len(engines) > 1:
        raise InputError(
            f"image={recipe.image} holds one engine, but the variants are of {' and '.join(engines)}; "
            "run each engine by itself."
        )


def _refuse_ignored_image(recipe: Recipe, planned: tuple[Planned, ...]) -> None:
    outside = [
        p for p in planned if recipe.image and p.launch.image != release.filled(recipe.image, p.variant)
    ]
    if outside:
        raise InputError(
            f"image={recipe.image} would be ignored: launcher={outside[0].launch.launcher} runs "
            f"{outside[0].variant.name} in no container; leave one of the two out."
        )


def reference(recipe: Recipe, machine: Machine) -> Planned | None:
    """The variant, or another endpoint, that scores everybody's output; None when there is none.

    reference=http://... is another endpoint of the same model.
    """
    name = recipe.reference or _default_reference(recipe, machine)
    if not name or name == "none":
        return None
    elsewhere = name.startswith(("http://", "https://"))
    asked = recipe.options
    key = asked.reference_api_key_env if elsewhere else asked.api_key_env
    own = Options(allow_dummy_moe=asked.allow_dummy_moe, api_key_env=key)
    bare = msgspec.structs.replace(
        recipe,
        args=(),
        env={},
        settings={},
        launcher=None,
        url=name if elsewhere else "",
        image="",
        options=own,
    )
    plain = msgspec.structs.replace(bare, workloads=(), loads=())
    if elsewhere:
        other = msgspec.structs.replace(registry.variant(ENDPOINT), name=name)
        return _composed(_planned(other, plain, machine))
    # As a variant of the run that is its reference too: its server then scores without another start.
    variant = registry.variant(name)
    return _composed(_planned(variant, _sharing(plain, variant, machine), machine))


def _default_reference(recipe: Recipe, machine: Machine) -> str:
    """The fp32 oracle where it can run, else the first variant without expert parallelism."""
    oracles = [v for v in registry.variants().values() if registry.fact(v.engine, "ORACLE", False)]
    if not (recipe.model or _model_of(recipe)):
        return ""  # endpoints whose weights nobody named: nothing is installed to judge them
    for variant in oracles:
        known = models.resolve(recipe.model or _model_of(recipe))
        if variant.accelerator == machine.accelerator and not feasible.feasible(variant, machine, known):
            return variant.name
    plain = [n for n in recipe.variants if registry.variant(n).parallel.expert == 1]
    return plain[0] if plain else ""


def _model_of(recipe: Recipe) -> str:
    return next((registry.variant(n).model for n in recipe.variants if registry.variant(n).model), "")


def _planned(variant: Variant, recipe: Recipe, machine: Machine) -> Planned:
    recipe = msgspec.structs.replace(
        recipe,
        python=release.filled(recipe.python, variant),
        image=release.filled(recipe.image, variant),
    )
    variant = _as_set(variant, recipe)
    launcher = launchers.chosen(recipe.launcher, variant, machine, contained=bool(recipe.image))
    asked = not launchers.named(launcher).OWNS_SERVER and recipe.url
    names = endpoint.served(recipe.url, recipe.options.api_key_env) if asked else ()
    served = endpoint.Served(recipe.url, names, recipe.options.served_name)
    name = recipe.model or variant.model
    model = models.resolve(name) if name else _called(served, recipe.options.api_key_env)
    deployment = deploy(variant, model, recipe, launcher)
    if said := served.name(model.alias, model.hf_id, model.path):
        deployment = msgspec.structs.replace(deployment, served_model_name=said)
    planned = Planned(
        variant=variant,
        model=model,
        deployment=deployment,
        trials=tuple(
            PlannedTrial(workload=w, load=load, skip=_too_long(variant, model, w))
            for w, load in recipe.offered
        ),
        options=recipe.options,
    )
    skip = switches.cannot(variant, model, registry.switches_of(variant.engine))
    if planned.own_server:
        skip = skip or _unreadable(variant, model)
        skip = skip or feasible.feasible(variant, machine, model, deployment.launcher)
    return msgspec.structs.replace(planned, skip=skip)


def _unreadable(variant: Variant, model: Model) -> str:
    """Why the engine, or what its file converts for it, reads no such model; "" where that is not known."""
    read = registry.fact(variant.engine, "ARCHITECTURES", ())
    if not read or not model.architecture or model.architecture in read:
        return ""
    return (
        f"{variant.engine} is offered {', '.join(read)} here, and {model.alias} is {model.architecture}: "
        "choose another engine for it"
    )


def _called(served: endpoint.Served, api_key_env: str) -> Model:
    """What a server's own name for its model stands for, where it counts tokens as that model does."""
    name = served.name()
    model = models.called(name)
    folder = model.path or model.tokenizer
    if not folder:
        return model
    stated = endpoint.counts(served.url, name, api_key_env)
    alike = tokenizer_identity.counts_alike(stated, endpoint.TEXTS, folder)
    return model if alike else models.misnamed(name)


def _as_set(variant: Variant, recipe: Recipe) -> Variant:
    """The variant on the recipe's image and with its settings, which the label then claims too."""
    taken = registry.fact(variant.engine, "OPTIONS", ())
    unknown = [name for name in recipe.settings if name not in taken]
    if unknown and not registry.fact(variant.engine, "ANY_OPTION", False):
        raise InputError(
            f"settings.{unknown[0]}= means nothing to {variant.engine}, the engine of {variant.name}, which "
            f"takes {', '.join(taken) or 'none'}; leave it out, or run those that know it by themselves."
        )
    claimed = {field: value for field, value in recipe.settings.items() if field in variant.expect}
    return msgspec.structs.replace(
        variant,
        image=recipe.image or variant.image,
        options={**variant.options, **recipe.settings},
        expect={**variant.expect, **claimed},
    )


def _too_long(variant: Variant, model: Model, spec: WorkloadSpec) -> str:
    input_len, output_len = registry.workload(spec.file).longest(spec)
    why = guards.holds(variant, model, input_len, output_len)
    return f"{why}; it is made for {', '.join(variant.shapes)}" if why and variant.shapes else why


def refuse(planned: tuple[Planned, ...]) -> None:
    """Raises HarnessError when nothing of the plan can run."""
    if all(p.skip for p in planned):
        reasons = "; ".join(f"{p.variant.name}: {p.skip}" for p in planned)
        raise HarnessError(f"Nothing can run here. {reasons}. `just doctor` shows what is missing.")
