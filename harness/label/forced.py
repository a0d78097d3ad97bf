"""Acceptance that is made up: drafts taken at a chosen rate, whatever the model says of them. Refused.

The tokens of such a run are nobody's, so neither its speed nor its output says anything. Each engine's file
lists its own spellings: FORCED_KEYS (settings, in arguments and options files), FORCED_VARIABLES.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from harness import launchers, registry
from harness.errors import ModelError
from harness.label.guards import config_files
from harness.label.known import flags
from harness.schema import Launch, Variant

_LINE = re.compile(r"^[ \t]*-?[ \t]*[\"']?([\w-]+)[\"']?[ \t]*:[ \t]*(\S.*?),?[ \t]*$", re.MULTILINE)
"""One setting of a YAML file, at any depth."""
_OFF = ("", "-1", "-1.0", "0", "null", "none", "false", "[]")


def check(variant: Variant, launch: Launch) -> None:
    """Raises ModelError when a launch would accept draft tokens that its model did not check."""
    if found := tuple(spellings(launch, launchers.of(launch).environment(launch))):
        raise ModelError(
            f"{variant.name} would accept drafts by decree ({', '.join(found)}): the timed tokens would not "
            "be the model's, and acceptance would be chosen, not measured; leave that out, a draft's real "
            "acceptance is in the report."
        )


def spellings(launch: Launch, environment: Mapping[str, str]) -> Iterator[str]:
    """Every setting and variable of the launch that forces acceptance, in any engine's spelling."""
    engines = registry.engines()
    keys = {k: v for e in engines for k, v in registry.fact(e, "FORCED_KEYS", {}).items()}
    for key, value, where in _settings(launch):
        wanted = keys.get(key.replace("-", "_"))
        if wanted is not None and value.lower() not in _OFF and (not wanted or value.lower() == wanted):
            yield f"{key}: {value}{where}"
    variables = "|".join(filter(None, (registry.fact(e, "FORCED_VARIABLES", "") for e in engines)))
    for name, value in environment.items():
        if variables and re.fullmatch(variables, name) and value.lower() not in _OFF:
            yield f"{name}={value}"


def _settings(launch: Launch) -> Iterator[tuple[str, str, str]]:
    """(key, value, where) of the arguments, of JSON among them, and of the files that they name."""
    for flag, value in flags(launch.argv):
        yield flag.lstrip("-").rpartition(".")[2], value, ""
        yield from ((key, text, f" (in {flag})") for key, text in _entries(value))
    for path, content in chain(launch.files.items(), config_files(launch)):
        found = [*_entries(content or "")] or _LINE.findall(content or "")
        yield from ((key, text.strip("\"'"), f" (in {path})") for key, text in found)


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """Keys and values of JSON at any depth; nothing for other text."""
    if not text.lstrip().startswith("{"):
        return
    try:
        yield from _walk(json.loads(text))
    except ValueError:
        return


def _walk(tree: Any) -> Iterator[tuple[str, str]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield str(key), value if isinstance(value, str) else json.dumps(value)
            yield from _walk(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _walk(value)
