"""How an engine is told to log its routing: vLLM by a mounted plugin, SGLang by arguments of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from harness import launchers
from harness.errors import InputError
from harness.moe import sglang_recorder
from harness.schema import Scalar

if TYPE_CHECKING:
    from harness.plan import Planned

FOLDER = "moe_log"
"""The plugin's folder in the repository; it carries its own entry-point metadata."""
LOG = "moe.moelog"
"""Name of vLLM's log in a visit's folder; the binary form, since a GPU routes millions of rows a minute."""
_PLUGIN, _OUT = "routing/moe_log", "routing/out"
"""What a container calls the plugin's folder and the visit's."""
_ROOT = Path(__file__).resolve().parents[2]


def environment(layer: Scalar, out_path: str, package: str = "", pythonpath: str = "") -> dict[str, str]:
    """Variables to merge into Deployment.extra_env for moe_log=layer.

    layer: a decoder layer, a list "0,12,23", or "all" (True = "all"); out_path: file as the engine sees it,
    .jsonl or .moelog; package: the plugin's folder as the engine sees it, "" = where it lies;
    pythonpath: what PYTHONPATH holds already.
    Raises InputError.
    """
    layers = layers_of(layer)
    if not out_path.endswith((".jsonl", ".moelog")):
        raise InputError(
            f"The routing log {out_path} must end in .jsonl or .moelog: the suffix picks the format."
        )
    paths = [package or str(_ROOT / FOLDER), *filter(None, [pythonpath])]
    return {"PYTHONPATH": os.pathsep.join(paths), "VLLM_LOG_MOE": out_path, "VLLM_LOG_LAYER": layers}


def layers_of(layer: Scalar) -> str:
    """The layers an option moe_log=layer asks for: "all", "0" or "0,12,23". Raises InputError."""
    layers = "all" if layer is True else str(layer).strip().lower()
    if layers != "all" and not all(part.strip().isdigit() for part in layers.split(",")):
        raise InputError(
            f"moe_log={layer!r} names no layers: write moe_log=0, moe_log=0,12,23 or moe_log=all."
        )
    return layers


def logged(planned: Planned, layer: Scalar, folder: Path) -> tuple[Planned, str]:
    """The launch with its routing logged to the visit's folder, and why it is not, "" when it is.

    layer: the recipe's option moe_log (None or False = not asked for). Raises InputError for other nonsense.
    """
    if layer is None or layer is False:
        return planned, ""
    launch, name = planned.launch, planned.variant.name
    if launch.engine not in ("vllm", "sglang") or not planned.own_server:
        return planned, f"{name}: routing is not logged, only a vLLM or SGLang that the harness starts can"
    if planned.model.moe is None:
        return planned, f"{name}: routing is not logged, {planned.model.alias} is no mixture of experts"
    launcher = launchers.of(launch)
    launch, out = launcher.inside(launch, folder, _OUT)
    if launch.engine == "vllm":
        launch, package = launcher.inside(launch, _ROOT / FOLDER, _PLUGIN, writable=False)
        held = launcher.environment(launch).get("PYTHONPATH", "")
        flags = environment(layer, f"{out}/{LOG}", package, held)
    else:
        flags = sglang_recorder.environment(out)
        launch = replace(launch, argv=(*launch.argv, *sglang_recorder.arguments(launch.accelerator)))
    labels = (*launch.labels, f"routing logged: {layers_of(layer)}")
    return replace(planned, launch=replace(launch, env={**launch.env, **flags}, labels=labels)), ""


def log_of(folder: Path) -> Path:
    """A visit's routing log: the plugin's, or what SGLang's dumps became."""
    converted = folder / sglang_recorder.LOG
    return converted if converted.exists() else folder / LOG


def told(folder: Path) -> str:
    """What the visit's routing log told, in one line; "" when none was asked for."""
    if not log_of(folder).exists():
        return ""
    from harness.moe import command  # brings matplotlib, which only a logged run needs

    try:
        return command.after_visit(folder)
    except InputError as error:
        return f"routing is not logged: {error.message}"
