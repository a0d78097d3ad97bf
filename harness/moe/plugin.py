"""How a vLLM deployment is told to log its routing: environment and mounts, nothing installed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from harness.errors import InputError
from harness.schema import Scalar

if TYPE_CHECKING:
    from harness.plan import Planned

FOLDER = "moe_log"
"""The plugin's folder in the repository; it carries its own entry-point metadata."""
LOG = "moe.jsonl"
"""Name of the log in a visit's folder."""
_MOUNT = "/routing"
"""Where a container sees the plugin's folder, and beside it the visit's as "out"."""
_ROOT = Path(__file__).resolve().parents[2]


def environment(layer: Scalar, out_path: str, root: str = ".", pythonpath: str = "") -> dict[str, str]:
    """Variables to merge into Deployment.extra_env for moe_log=layer.

    layer: a decoder layer, a list "0,12,23", or "all" (True = "all"); out_path: file as the engine sees it,
    .jsonl or .moelog; root: repository root as the engine sees it; pythonpath: what PYTHONPATH holds already.
    Raises InputError.
    """
    layers = "all" if layer is True else str(layer).strip().lower()
    if layers != "all" and not all(part.strip().isdigit() for part in layers.split(",")):
        raise InputError(
            f"moe_log={layer!r} names no layers: write moe_log=0, moe_log=0,12,23 or moe_log=all."
        )
    if not out_path.endswith((".jsonl", ".moelog")):
        raise InputError(
            f"The routing log {out_path} must end in .jsonl or .moelog: the suffix picks the format."
        )
    paths = [
        os.path.join(os.path.abspath(root) if root == "." else root, FOLDER),
        *filter(None, [pythonpath]),
    ]
    return {"PYTHONPATH": os.pathsep.join(paths), "VLLM_LOG_MOE": out_path, "VLLM_LOG_LAYER": layers}


def logged(planned: Planned, layer: Scalar, folder: Path) -> tuple[Planned, str]:
    """The launch with its routing logged to folder/moe.jsonl, and why it is not, "" when it is.

    layer: the recipe's option moe_log (None or False = not asked for). Raises InputError for other nonsense.
    """
    if layer is None or layer is False:
        return planned, ""
    launch, name = planned.launch, planned.variant.name
    if launch.engine != "vllm" or launch.launcher == "attach":
        return planned, f"{name}: routing is not logged, the plugin is for a vLLM that the harness starts"
    if planned.model.moe is None:
        return planned, f"{name}: routing is not logged, {planned.model.alias} is no mixture of experts"
    if launch.launcher == "process":
        flags = environment(layer, str(folder.resolve() / LOG), str(_ROOT), launch.env.get("PYTHONPATH", ""))
        return replace(planned, launch=replace(launch, env={**launch.env, **flags})), ""
    flags = environment(layer, f"{_MOUNT}/out/{LOG}", _MOUNT, launch.env.get("PYTHONPATH", ""))
    mounts = {
        **launch.mounts,
        str(_ROOT / FOLDER): f"{_MOUNT}/{FOLDER}",
        str(folder.resolve()): f"{_MOUNT}/out:rw",
    }
    return replace(planned, launch=replace(launch, env={**launch.env, **flags}, mounts=mounts)), ""


def told(folder: Path) -> str:
    """What the visit's routing log told, in one line; "" when none was asked for."""
    if not (folder / LOG).exists():
        return ""
    from harness.moe import command  # brings matplotlib, which only a logged run needs

    try:
        return command.after_visit(folder)
    except InputError as error:
        return f"routing is not logged: {error.message}"
