"""Launches of named variants (fixed model path, port, interpreter) and evidence of real servers."""

from pathlib import Path
from typing import Any

import msgspec

from harness import launchers, models, planned, registry
from harness.schema import Deployment, Evidence, Launch, Variant


def golden_evidence(name: str) -> Evidence:
    """What a real server showed (tests/golden/<name>_evidence.json), less what nobody reads."""
    path = Path(__file__).parent / "golden" / f"{name}_evidence.json"
    return msgspec.json.decode(path.read_bytes(), type=Evidence)


def render(name: str, *, launcher: str | None = None, model: str = "", **changes: Any) -> Launch:
    """Launch of a variant of the registry, containers for accelerators, a process for CPUs."""
    return render_variant(registry.variant(name), launcher=launcher, model=model, **changes)


def render_variant(
    variant: Variant, *, launcher: str | None = None, model: str = "", **changes: Any
) -> Launch:
    """The same for a variant that is in no file."""
    chosen = launcher or ("process" if variant.accelerator == "cpu" else "docker")
    known = models.models()[model or variant.model]
    fields: dict[str, Any] = {
        "model": known,
        "launcher": chosen,
        "model_path": known.path or known.hf_id,
        "served_model_name": known.alias,
        "also_served_as": (known.hf_id,) if known.hf_id else (),
    } | changes
    deployment = launchers.named(chosen).deployed(Deployment(**fields), variant)
    if chosen == "docker" and "model_path" not in changes:  # as if the weights were here
        deployment = msgspec.structs.replace(deployment, model_path=f"/models/{known.alias}")
    return planned.render(variant, deployment)
