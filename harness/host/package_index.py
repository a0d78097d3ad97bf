"""The package index that pip is configured for: which versions of a package exist, and its address for uv."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Mapping
from functools import cache

from harness.errors import MachineError

_LISTED = "Available versions: "
_ABSENT = "No matching distribution found"
_TIMEOUT_S = 120.0
_SECTIONS = ("global", "install", ":env:")
"""Of pip's configuration, the later over the earlier."""
_FLAGS = {
    "index-url": "--default-index",
    "extra-index-url": "--index",
    "find-links": "--find-links",
    "trusted-host": "--allow-insecure-host",
    "cert": "--cert",
}
"""pip's setting -> uv's flag, once for each of its words."""


@cache
def versions(package: str, *, candidates: bool = False) -> tuple[str, ...]:
    """Released versions that this Python can install, oldest first; `candidates`: with pre-releases.

    Raises MachineError where the index has none, or does not answer.
    """
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "index", "versions", package)
    done = subprocess.run(
        [*pip, "--only-binary=:all:", *(["--pre"] if candidates else [])],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    listed = next((line for line in done.stdout.splitlines() if line.startswith(_LISTED)), "")
    if not listed:
        why = "it holds none" if _ABSENT in done.stderr else "it does not answer"
        raise MachineError(
            f"The package index names no version of {package}: {why}; check PIP_INDEX_URL and the network.",
            details="\n".join(done.stderr.splitlines()[-5:]),
        )
    return tuple(reversed(listed.removeprefix(_LISTED).split(", ")))


def uv_flags() -> tuple[str, ...]:
    """pip's own configuration as uv's flags, so that both ask the same index."""
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list")
    done = subprocess.run(pip, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    return flags(configured(done.stdout))


def configured(listing: str) -> dict[str, str]:
    """What `pip config list` prints, by the name of the setting. Pure."""
    found: dict[str, str] = {}
    pairs = [line.partition("=") for line in listing.splitlines() if "=" in line]
    for section in _SECTIONS:
        for key, _, value in pairs:
            if key.startswith(f"{section}."):
                found[key.removeprefix(f"{section}.")] = str(ast.literal_eval(value))
    return found


def flags(settings: Mapping[str, str]) -> tuple[str, ...]:
    """uv's flags. As pip does, the best version of all indexes is taken. Pure."""
    named = [
        word for key, flag in _FLAGS.items() for one in settings.get(key, "").split() for word in (flag, one)
    ]
    alone = ["--no-index"] if settings.get("no-index", "") in ("1", "true", "True", "yes", "on") else []
    return ("--index-strategy=unsafe-best-match", *alone, *named)
