"""How a vLLM deployment is told to log its routing: environment and mounts, nothing installed."""

from __future__ import annotations

import os

from harness.errors import InputError

FOLDER = "moe_log"
"""The plugin's folder in the repository; it carries its own entry-point metadata."""


def environment(
    layer: str | int | bool, out_path: str, root: str = ".", pythonpath: str = ""
) -> dict[str, str]:
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
