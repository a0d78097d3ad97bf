"""Documented options of trtllm-serve (engines/trtllm.options.toml): its parser does not install here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from harness.label.dialect import is_branch, since, version_key
from harness.registry import ROOT, read_toml
from harness.schema import Launch, ParseResult, Variant

FLAT_SINCE = "0.21.0"
"""Before it the PyTorch backend's options lie in pytorch_backend_config, and sizes are flags
(NVIDIA/TensorRT-LLM #4603 of 2025-05-23, BREAKING CHANGE)."""


def is_nested(version: str) -> bool:
    """Whether options are spelt as before FLAT_SINCE; so they are for a build named after a commit."""
    return is_branch(version) or not since(version, FLAT_SINCE)


@cache
def _table() -> dict[str, Any]:
    return read_toml(ROOT / "engines" / "trtllm.options.toml")


class Dialect:
    """What one version may be given."""

    def __init__(self, version: str) -> None:
        table = _table()
        self.version = version
        self.nested = is_nested(version)
        chosen = table["nested"] if self.nested else table
        self.flags: dict[str, list[str]] = chosen["flags"]
        self.choices: dict[str, list[str]] = chosen["choices"]
        self.keys: dict[str, list[str]] = chosen["keys"]
        self.since: dict[str, str] = {} if self.nested else table["since"]

    def too_new(self, name: str) -> bool:
        """Whether a known flag or key came after this version."""
        return name in self.since and not since(self.version, self.since[name])


def check(variant: Variant, launch: Launch) -> ParseResult:
    """Every flag, and every key of the options file, against what the variant's version has."""
    dialect, words = Dialect(variant.version), launch.argv
    first, last = _table()["versions"]
    errors = [
        *_flag_errors(dialect, words[words.index("trtllm-serve") + 2 :]),
        *_file_errors(dialect, launch),
    ]
    known = version_key(first) <= version_key(variant.version) <= version_key(last)
    covered = "2e669133, April 2025" if dialect.nested else f"{first} to {last}"
    return ParseResult(
        variant=variant.name,
        ok=not errors,
        parser=f"table of documented options, trtllm {covered}",
        exact=known or (dialect.nested and "2e669133" in variant.version),
        error=f"trtllm {variant.version}: {'; '.join(errors)}" if errors else "",
        note="documented options only; values are checked by the engine at its start",
    )


def _flag_errors(dialect: Dialect, words: tuple[str, ...]) -> Iterator[str]:
    """Click's rules: `--flag value` or `--flag=value`, switches without a value, no abbreviations."""
    valued, switches = dialect.flags["valued"], dialect.flags["switches"]
    remaining = iter(words)
    for word in remaining:
        flag, equals, value = word.partition("=")
        if flag not in valued and flag not in switches:
            yield f"no such option {flag}"
            continue
        if dialect.too_new(flag):
            yield f"{flag} exists since {dialect.since[flag]}"
        if flag in valued:
            value = value if equals else next(remaining, "")
            yield from _value_errors(dialect, flag, value)


def _value_errors(dialect: Dialect, flag: str, value: str) -> Iterator[str]:
    if not value or value.startswith("--"):
        yield f"{flag} needs a value"
    allowed = dialect.choices.get(flag, [value])
    if value not in allowed:
        yield f"{flag} is one of {', '.join(allowed)}, not {value}"


def _file_errors(dialect: Dialect, launch: Launch) -> Iterator[str]:
    for path, content in launch.files.items():
        yield from _key_errors(dialect, path, json.loads(content), "top")


def _key_errors(dialect: Dialect, path: str, options: Mapping[str, Any], table: str) -> Iterator[str]:
    for key, value in options.items():
        where = "" if table == "top" else f"{table}."
        if key not in dialect.keys[table]:
            yield f"no such key {where}{key} (in {path})"
        elif dialect.too_new(key):
            yield f"key {where}{key} exists since {dialect.since[key]} (in {path})"
        elif isinstance(value, dict) and key in dialect.keys:
            yield from _key_errors(dialect, path, value, key)
