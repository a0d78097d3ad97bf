"""What a recipe amounts to on this machine: launches, trials, and the reason for whatever cannot run."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from harness import models, registry, store
from harness import recipe as recipes
from harness.command import by_hand, redacted_argv, redacted_env
from harness.errors import HarnessError, InputError
from harness.label import feasible, guards
from harness.launchers import container
from harness.schema import (
    Accelerator,
    Deployment,
    Launch,
    LauncherName,
    Load,
    Machine,
    Model,
    Noun,
    Recipe,
    Trial,
    Variant,
    WorkloadSpec,
    scenario,
)

_PLAN_PORT = 8000
ORACLE = "transformers"
"""The engine whose variants are references before anything else."""


class PlannedTrial(Noun):
    """A workload at a load; `skip` says why it cannot be held, "" when it can."""

    workload: WorkloadSpec
    load: Load
    skip: str = ""


class Planned(Noun):
    """One variant of a recipe, ready to be launched; `skip` says why it will not be, "" when it will."""

    variant: Variant
    model: Model
    deployment: Deployment
    launch: Launch
    trials: tuple[PlannedTrial, ...]
    skip: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def one_scenario_per_launch(self) -> bool:
        """Whether the engine is started anew for every scenario, so that each begins with an empty cache."""
        return self.launch.launcher != "attach" and registry.keeps_prompts(self.variant.engine)

    def trial(self, planned: PlannedTrial, restart: int) -> Trial:
        """The trial of one restart."""
        return Trial(variant=self.variant.name, workload=planned.workload, load=planned.load, restart=restart)


def recipe_of(given: Sequence[str], machine: Machine, *, everything: bool = False) -> tuple[Recipe, str]:
    """(recipe, run id) of a command line; recipe=FILE is a recipe file, run_id= resumes that run.

    `everything`: "all" means every variant, whether it can run here or not.
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
        names = words.plain[0] if words.plain else "all"
        model, launcher = words.pairs.get("model", ""), words.pairs.get("launcher", "")
        variants = launched() if everything and names == "all" else select(names, machine, model)
        recipe = recipes.from_words(words, variants, _kind(variants, machine))
        return recipe, run_id or store.new_run_id("-".join([names, *words.plain[1:2], launcher]))
    return recipe, run_id or store.new_run_id(Path(path).stem)


def launched() -> tuple[str, ...]:
    """Every variant that this harness launches."""
    return tuple(name for name, v in registry.variants().items() if v.engine != "openai")


def _kind(variants: tuple[str, ...], machine: Machine) -> Accelerator:
    """cpu when a variant of the recipe runs on CPU: the shapes are the same for all."""
    kinds = {registry.variant(v).accelerator for v in variants}
    return "cpu" if "cpu" in kinds else machine.accelerator


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
    return tuple(v.name for v in sorted(chosen, key=lambda v: v.engine == ORACLE))


def plan(recipe: Recipe, machine: Machine) -> tuple[Planned, ...]:
    """Every variant of the recipe, rendered. Touches nothing.

    Raises InputError for unknown names and HarnessError for refusals (dummy weights of a MoE ...).
    """
    _refuse_twins(recipe)
    return tuple(_planned(registry.variant(name), recipe, machine) for name in recipe.variants)


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


def reference(recipe: Recipe, machine: Machine) -> Planned | None:
    """The variant that scores everybody's output; None when the recipe has none and none can run here."""
    name = recipe.reference or _default_reference(recipe, machine)
    if not name or name == "none":
        return None
    plain = msgspec.structs.replace(recipe, args=(), env={}, launcher=None, url="", workloads=(), loads=())
    return _planned(registry.variant(name), plain, machine)


def _default_reference(recipe: Recipe, machine: Machine) -> str:
    """The fp32 oracle where it can run, else the first variant without expert parallelism."""
    oracles = [v for v in registry.variants().values() if v.engine == ORACLE]
    for variant in oracles:
        known = models.resolve(recipe.model or _model_of(recipe) or variant.model)
        if variant.accelerator == machine.accelerator and not feasible.feasible(variant, machine, known):
            return variant.name
    plain = [n for n in recipe.variants if registry.variant(n).parallel.expert == 1]
    return plain[0] if plain else ""


def _model_of(recipe: Recipe) -> str:
    return next((registry.variant(n).model for n in recipe.variants if registry.variant(n).model), "")


def _planned(variant: Variant, recipe: Recipe, machine: Machine) -> Planned:
    model = models.resolve(recipe.model or variant.model)
    launcher = recipe.launcher or _launcher(variant, machine)
    deployment = deploy(variant, model, recipe, launcher)
    launch = render(variant, deployment)
    warnings, labels = guards.check(variant, launch, model, allow_dummy=recipe.options.allow_dummy_moe)
    launch = msgspec.structs.replace(
        launch, labels=(*launch.labels, *labels), api_key_env=recipe.options.api_key_env
    )
    skip = "" if launcher == "attach" else feasible.feasible(variant, machine, model, launcher)
    trials = tuple(
        PlannedTrial(workload=w, load=load, skip=_too_long(variant, model, w)) for w, load in recipe.offered
    )
    planned = Planned(
        variant=variant,
        model=model,
        deployment=deployment,
        launch=launch,
        trials=trials,
        skip=skip,
        warnings=warnings,
    )
    return keeping_traces(planned, store.results_root() / "traces")


def deploy(variant: Variant, model: Model, recipe: Recipe, launcher: LauncherName) -> Deployment:
    """Where and with what the variant would run. A container sees its weights at /models/<alias>."""
    contained = launcher == "docker"
    environment = f".engines/{variant.environment}/bin/python"
    return Deployment(
        model=model,
        launcher=launcher,
        model_path=container.weights(model)[0]
        if contained
        else relative(model.path) or model.hf_id or model.alias,
        served_model_name=model.alias,
        host="127.0.0.1",
        port=_PLAN_PORT,
        python=recipe.python or (environment if variant.environment and not contained else "python3"),
        extra_args=tuple(map(_own, recipe.args)),
        extra_env={k: _own(v) for k, v in recipe.env.items()},
        url=recipe.url,
        root=container.REPOSITORY if contained else ".",
    )


def _own(value: str) -> str:
    """Recipes name secrets as ${NAME}: the value is the caller's own."""
    return os.path.expandvars(value) if "${" in value else value


def relative(path: str) -> str:
    """The path from the repository's root, where every process is started; outside it, as it is."""
    try:
        return Path(path).relative_to(registry.ROOT).as_posix() if path else ""
    except ValueError:
        return path


def _launcher(variant: Variant, machine: Machine) -> LauncherName:
    if variant.engine == "openai":
        return "attach"
    return "docker" if variant.image and variant.accelerator != "cpu" and machine.docker else "process"


def _too_long(variant: Variant, model: Model, spec: WorkloadSpec) -> str:
    input_len, output_len = registry.workload(spec.name).longest(spec)
    return guards.holds(variant, model, input_len, output_len)


def render(variant: Variant, deployment: Deployment) -> Launch:
    """The engine's launch, and for a container its weights, image and privileges."""
    launch: Launch = registry.engine(variant.engine).launch(deployment, variant)
    if deployment.launcher != "attach":
        launch = msgspec.structs.replace(launch, revision=deployment.model.loaded_revision)
    if deployment.launcher != "docker":
        return launch
    contained = container.contained(launch, variant, deployment.model, str(registry.ROOT))
    if deployment.model.path or not deployment.model.hf_id:
        return contained
    # Weights that are fetched at the first start outlive the container.
    mounts = {**contained.mounts, str(models.hub_cache()): f"{container.HOME}/.cache/huggingface/hub:rw"}
    return msgspec.structs.replace(contained, mounts=mounts)


def keeping_traces(planned: Planned, folder: Path) -> Planned:
    """The same, its profiler's traces written to `folder`: mounted into a container, named to a process."""
    inside, launch = planned.variant.traces, planned.launch
    if not inside or launch.launcher == "attach":
        return planned
    if launch.launcher == "docker":
        others = {host: target for host, target in launch.mounts.items() if target != f"{inside}:rw"}
        mounts = {**others, str(folder.resolve()): f"{inside}:rw"}
        return msgspec.structs.replace(planned, launch=msgspec.structs.replace(launch, mounts=mounts))
    argv = tuple(str(folder.resolve()) if word == inside else word for word in launch.argv)
    return msgspec.structs.replace(planned, launch=msgspec.structs.replace(launch, argv=argv))


def at_port(planned: Planned, port: int) -> Planned:
    """The same, rendered for another port."""
    deployment = msgspec.structs.replace(planned.deployment, port=port)
    launch = render(planned.variant, deployment)
    labels, key = planned.launch.labels, planned.launch.api_key_env
    return msgspec.structs.replace(
        planned,
        deployment=deployment,
        launch=msgspec.structs.replace(launch, labels=labels, api_key_env=key),
    )


def refuse(planned: tuple[Planned, ...]) -> None:
    """Raises HarnessError when nothing of the plan can run."""
    if all(p.skip for p in planned):
        reasons = "; ".join(f"{p.variant.name}: {p.skip}" for p in planned)
        raise HarnessError(f"Nothing can run here. {reasons}. `just doctor` shows what is missing.")


def as_json(planned: tuple[Planned, ...]) -> bytes:
    """The plan for machines: a JSON list of variant, launch (secrets redacted), trials, skip, warnings."""
    rows = [
        {
            "variant": p.variant.name,
            "source": p.variant.source,
            "launch": redacted(p.launch),
            "command": by_hand(p.launch),
            "trials": p.trials,
            "skip": p.skip,
            "warnings": p.warnings,
        }
        for p in planned
    ]
    return msgspec.json.format(msgspec.json.encode(rows), indent=1)


def as_text(planned: tuple[Planned, ...]) -> str:
    """The plan for people: per variant the command to copy, its files, and what would not run."""
    return "\n\n".join(_text(p) for p in planned)


def _text(planned: Planned) -> str:
    lines = [f"# {planned.variant.name}: {planned.variant.source}"]
    lines += [f"# weights: {models.provenance(planned.model)}"] if planned.launch.launcher != "attach" else []
    lines += [f"# cannot run here: {planned.skip}"] if planned.skip else []
    lines += [f"# warning: {w}" for w in planned.warnings]
    if planned.one_scenario_per_launch and len(planned.trials) > 1:
        lines.append("# started anew for every scenario: no endpoint empties its prefix cache")
    lines += [f"# skips {scenario(t.workload, t.load)}: {t.skip}" for t in planned.trials if t.skip]
    # The command of a container writes its files itself.
    files = planned.launch.files if planned.launch.launcher != "docker" else {}
    for path, content in files.items():
        lines += [f"# file {path}:", *(f"#   {line}" for line in content.splitlines())]
    return "\n".join([*lines, by_hand(planned.launch)])


def redacted(launch: Launch) -> Launch:
    """The launch as it may be shown or written to a file: no secret, no folder above the repository."""
    return msgspec.structs.replace(
        launch,
        argv=tuple(map(relative, redacted_argv(launch.argv))),
        env={name: relative(value) for name, value in redacted_env(launch.env).items()},
        mounts={relative(host): inside for host, inside in launch.mounts.items()},
    )
