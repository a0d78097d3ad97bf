"""One variant of a recipe, ready to be launched: its trials, and the one place that makes a launch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from harness import extras, launchers, models, registry
from harness.label import forced, guards, overrides, switches
from harness.schema import (
    Deployment,
    Launch,
    Load,
    Model,
    Noun,
    Options,
    Prompts,
    Recipe,
    Sampling,
    Trial,
    Variant,
    WorkloadSpec,
)

PORT = 8000
"""Of a plan's commands, until a launch finds a free one."""
TRACES = "traces"
"""Folder of profiler traces, in a visit's."""


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
    trials: tuple[PlannedTrial, ...]
    options: Options = Options()
    launch: Launch = Launch()
    """Composed by launching(), for whatever port and folder is known so far."""
    skip: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def own_server(self) -> bool:
        """Whether this harness starts the engine."""
        return launchers.named(self.deployment.launcher).OWNS_SERVER

    @property
    def exact(self) -> bool:
        """Whether prompts are built from the model's own tokens, so that lengths are known beforehand."""
        return self.own_server or bool(self.model.path or self.model.tokenizer)

    @property
    def tokenizer(self) -> str:
        """Folder of the tokenizer that prompts are built with; for an unknown model our own, a yardstick."""
        own = self.model.path or self.model.tokenizer
        return own if self.exact else str(registry.ROOT / models.YARDSTICK)

    @property
    def ways(self) -> tuple[Prompts, ...]:
        """How prompts may be sent, best first: as the user asked, else ids wherever those are exact."""
        if self.options.prompts != "ids":
            return (self.options.prompts,)
        return ("ids", "text", "chat") if self.exact else ("text", "chat")

    @property
    def sampling(self) -> Sampling | None:
        """What its first sampled load asks for; None where all are greedy."""
        return next((t.workload.sampling for t in self.trials if t.workload.sampling), None)

    @property
    def one_scenario_per_launch(self) -> bool:
        """Whether the engine is started anew for every scenario, so that each begins with an empty cache."""
        cached = bool(self.variant.options.get("prefix_cache"))
        return self.own_server and registry.keeps_prompts(self.variant.engine, cached=cached)

    def trial(self, planned: PlannedTrial, restart: int) -> Trial:
        """The trial of one restart."""
        return Trial(variant=self.variant.name, workload=planned.workload, load=planned.load, restart=restart)


def deploy(variant: Variant, model: Model, recipe: Recipe, launcher: str) -> Deployment:
    """With what the variant would run, as its launcher lets it see that. Raises InputError."""
    deployment = Deployment(
        model=model,
        launcher=launcher,
        model_path=registry.relative(model.path) or model.hf_id or model.alias,
        served_model_name=model.alias,
        **_beside(variant, model),
        also_served_as=tuple({model.hf_id} - {"", model.alias}),
        port=PORT,
        python=recipe.python,
        extra_args=tuple(map(_own, recipe.args)),
        extra_env={k: _own(v) for k, v in recipe.env.items()},
        url=recipe.url.rstrip("/").removesuffix("/v1"),
    )
    return launchers.named(launcher).deployed(deployment, variant)


def _beside(variant: Variant, model: Model) -> dict[str, Any]:
    """The other model that a switch needs, where it is named. Raises InputError for an unknown alias."""
    alias = switches.beside(variant, model, registry.switches_of(variant.engine))
    if not alias:
        return {}
    other = models.resolve(alias)
    return {"draft": other, "draft_path": registry.relative(other.path) or other.hf_id or other.alias}


def launching(planned: Planned, port: int, folder: Path) -> Planned:
    """The same, its launch composed for a port and for a folder of this machine that outlives the engine.

    The one place where a launch is made: the engine's command, what its launcher adds, labels, API key, where
    a profiler writes, and what optional features need. Raises HarnessError for what must not be launched
    (guards.check), InputError for an option that a feature does not understand.
    """
    deployment = msgspec.structs.replace(planned.deployment, port=port)
    launch = render(planned.variant, deployment)
    warnings, labels = guards.check(
        planned.variant, launch, planned.model, allow_dummy=planned.options.allow_dummy_moe
    )
    forced.check(planned.variant, launch)
    labels += overrides.check(planned.variant, launch, allow=planned.options.allow_overrides)
    labels += overrides.edited(planned.model.path)
    launch = msgspec.structs.replace(
        launch,
        labels=(*launch.labels, *labels),
        api_key_env=planned.options.api_key_env,
        interface=planned.options.interface,
        srun=planned.options.srun,
    )
    composed = msgspec.structs.replace(
        planned,
        deployment=deployment,
        launch=_keeping_traces(launch, planned.variant.traces, folder / TRACES),
        warnings=warnings,
    )
    for feature in extras.offered("launching", planned.options, variant=planned.variant):
        composed = feature(composed, folder)
    return composed


def render(variant: Variant, deployment: Deployment) -> Launch:
    """What the engine says of its command, who it is, and what its launcher adds to that."""
    launch: Launch = registry.engine(variant.engine).launch(deployment, variant)
    launcher = launchers.named(deployment.launcher)
    launch = msgspec.structs.replace(
        launch,
        variant=variant.name,
        engine=variant.engine,
        launcher=deployment.launcher,
        accelerator=variant.accelerator,
        num_gpus=0 if variant.accelerator == "cpu" else variant.parallel.num_gpus,
        port=deployment.port,
        url=deployment.url,
        served_model_name=deployment.served_model_name,
        model=models.name_of(deployment.model),
        revision=deployment.model.loaded_revision if launcher.OWNS_SERVER else "",
    )
    return launcher.fitted(launch, deployment, variant)


def _keeping_traces(launch: Launch, named: str, folder: Path) -> Launch:
    """The launch whose profiler writes to `folder` instead of the folder that its arguments name, if any."""
    launcher = launchers.of(launch)
    if not named or not launcher.OWNS_SERVER:
        return launch
    launch, inside = launcher.inside(launch, folder, Path(named).name)
    argv = tuple(inside if word == named else word for word in launch.argv)
    return msgspec.structs.replace(launch, argv=argv)


def _own(value: str) -> str:
    """Recipes name secrets as ${NAME}: the value is the caller's own."""
    return os.path.expandvars(value) if "${" in value else value
