"""Documented options of trtllm-serve (engines/trtllm.options.toml): its parser does not install here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from harness.label.dialect import since, version_key
from harness.registry import ROOT, read_toml
from harness.schema import Launch, ParseResult, Variant


@cache
def _table() -> dict[str, Any]:
    return read_toml(ROOT / "engines" / "trtllm.options.toml")


def check(variant: Variant, launch: Launch) -> ParseResult:
    """Every flag, and every key of the options file, against the table."""
    first, last = _table()["versions"]
    errors = [*_flag_errors(variant.version, launch.argv[2:]), *_file_errors(launch)]
    return ParseResult(
        variant=variant.name,
        ok=not errors,
        parser=f"table of documented options, trtllm {first} to {last}",
        exact=version_key(first) <= version_key(variant.version) <= version_key(last),
        error=f"trtllm {variant.version}: {'; '.join(errors)}" if errors else "",
        note="documented options only; values are checked by the engine at its start",
    )


def _flag_errors(version: str, words: tuple[str, ...]) -> Iterator[str]:
    """Click's rules: `--flag value` or `--flag=value`, switches without a value, no abbreviations."""
    valued, switches = _table()["flags"]["valued"], _table()["flags"]["switches"]
    remaining = iter(words)
    for word in remaining:
        flag, equals, value = word.partition("=")
        if flag not in valued and flag not in switches:
            yield f"no such option {flag}"
        elif not since(version, _table()["since"].get(flag, "0")):
            yield f"{flag} exists since {_table()['since'][flag]}"
        elif flag in valued:
            value = value if equals else next(remaining, "")
            yield from _value_errors(flag, value)


def _value_errors(flag: str, value: str) -> Iterator[str]:
    if not value or value.startswith("--"):
        yield f"{flag} needs a value"
    allowed = _table()["choices"].get(flag, [value])
    if value not in allowed:
        yield f"{flag} is one of {', '.join(allowed)}, not {value}"


def _file_errors(launch: Launch) -> Iterator[str]:
    for path, content in launch.files.items():
        yield from _key_errors(path, json.loads(content), "top")


def _key_errors(path: str, options: Mapping[str, Any], table: str) -> Iterator[str]:
    for key, value in options.items():
        if key not in _table()["keys"][table]:
            where = "" if table == "top" else f"{table}."
            yield f"no such key {where}{key} (in {path})"
        elif isinstance(value, dict) and key in _table()["keys"]:
            yield from _key_errors(path, value, key)
