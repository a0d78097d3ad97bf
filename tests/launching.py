"""Launches of named variants for tests: fixed model path, port and interpreter."""

from typing import Any

from harness import models, registry
from harness.schema import Deployment, Launch, LauncherName, Variant


def render(name: str, *, launcher: LauncherName | None = None, model: str = "", **changes: Any) -> Launch:
    """Launch of a variant of the registry, containers for accelerators, a process for CPUs."""
    return render_variant(registry.variant(name), launcher=launcher, model=model, **changes)


def render_variant(
    variant: Variant, *, launcher: LauncherName | None = None, model: str = "", **changes: Any
) -> Launch:
    """The same for a variant that is in no file."""
    chosen = launcher or ("process" if variant.accelerator == "cpu" else "docker")
    known = models.models()[model or variant.model]
    fields: dict[str, Any] = {
        "model": known,
        "launcher": chosen,
        "model_path": f"/models/{known.alias}" if chosen == "docker" else known.path or known.hf_id,
        "served_model_name": known.alias,
        "python": f".engines/{variant.environment or 'any'}/bin/python",
    } | changes
    launch: Launch = registry.engine(variant.engine).launch(Deployment(**fields), variant)
    return launch
