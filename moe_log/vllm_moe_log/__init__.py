"""Entry point of the vLLM plugin. Without VLLM_LOG_MOE it returns at once: nothing imported or patched."""

from __future__ import annotations

import os


def register() -> None:
    """Called by vLLM in each of its processes; raises ValueError when a flag does not parse."""
    if not os.environ.get("VLLM_LOG_MOE"):
        return
    from vllm_moe_log import flags, hooks

    hooks.install(flags.parse(os.environ))
