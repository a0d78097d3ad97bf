"""Installs the environments of the CPU engines: beside the tests that need none of them.

python -m tests.environments [NAME ...]     by default those that are missing
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from harness.errors import HarnessError
from harness.host import engine_env
from harness.registry import ROOT

NAMES = ("vllm-cpu", "sglang-cpu", "transformers", "llamacpp")
"""The largest first."""
TOOLS = ("lm-eval",)
"""Where they are missing, CI installs these too; elsewhere their tests are skipped."""


def missing() -> tuple[str, ...]:
    """Those that are not installed, or made from other requirements than today's."""
    wanted = NAMES + TOOLS if os.environ.get("CI") else NAMES
    return tuple(name for name in wanted if not engine_env.exists(name, ROOT))


def install(names: list[str]) -> None:
    """One after the other. What cannot be installed is told by the first test that asks for it."""
    for name in names:
        with suppress(HarnessError):
            engine_env.ensure(name, ROOT, lambda line: None)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        install(sys.argv[1:] or list(missing()))
