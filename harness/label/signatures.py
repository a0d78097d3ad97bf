"""Known ways to fail (engines/signatures.toml), matched against an engine's log."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from harness.errors import InputError
from harness.registry import ROOT, convert, read_toml
from harness.schema import Cause, Signature

_EXCEPTION = re.compile(r"(?:^|[\s\])])([A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)\b(?:: .*)?)$")
_NOISE = re.compile(r"\w+Warning\b|CancelledError|KeyboardInterrupt|SystemExit")
_LONGEST_LINE = 400


@cache
def signatures() -> tuple[Signature, ...]:
    """The table, in file order. Raises InputError when it is malformed."""
    return tuple(convert(table, Signature, "signatures.toml") for table in _list("signature"))


def _list(name: str) -> list[Any]:
    found = read_toml(ROOT / "engines" / "signatures.toml").get(name)
    if not isinstance(found, list):
        raise InputError(f"signatures.toml has no list {name!r}; restore it.")
    return found


@cache
def _progress() -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{p})" for p in _list("progress")))


def is_progress(line: str) -> bool:
    """Whether the line announces a step that is quiet for long: weight load, JIT, graph capture."""
    return bool(_progress().search(line))


def first_cause(lines: Sequence[str]) -> Cause | None:
    """The first real cause in the log, else the first traceback's exception, else a weak sign, else None."""
    harmless = tuple(re.compile(s.pattern) for s in signatures() if s.harmless)
    readable = [line for line in lines if not any(p.search(line) for p in harmless)]
    real = [s for s in signatures() if not (s.wrapper or s.weak or s.harmless)]
    found = _first(real, readable) or _hidden(readable)
    return found or _first([s for s in signatures() if s.weak or s.wrapper], readable)


def _first(table: Sequence[Signature], lines: Sequence[str]) -> Cause | None:
    patterns = [(s, re.compile(s.pattern)) for s in table if _in_context(s, lines)]
    for line in lines:
        for signature, pattern in patterns:
            if pattern.search(line):
                return _cause(signature, line)
    return None


def _in_context(signature: Signature, lines: Sequence[str]) -> bool:
    return all(any(re.search(c, line) for line in lines) for c in signature.context)


def _cause(signature: Signature, line: str) -> Cause:
    return Cause(
        name=signature.name,
        cause=signature.cause,
        fix=signature.fix,
        line=line.strip()[:_LONGEST_LINE],
        source=signature.source,
    )


def _hidden(lines: Sequence[str]) -> Cause | None:
    """The last line of the first traceback: what no signature knows, but what a wrapper refers to."""
    wrappers = [re.compile(s.pattern) for s in signatures() if s.wrapper]
    in_traceback = False
    for line in lines:
        in_traceback = in_traceback or "Traceback (most recent call last)" in line
        exception = _EXCEPTION.search(line.rstrip())
        told = _NOISE.search(line) or any(p.search(line) for p in wrappers)
        if in_traceback and exception and not told:
            return Cause(
                name="exception",
                cause=f"the engine raised {exception[1][:_LONGEST_LINE]}",
                fix="No known signature matches; read the traceback above that line.",
                line=line.strip()[:_LONGEST_LINE],
            )
    return None
