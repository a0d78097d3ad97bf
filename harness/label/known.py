"""Combinations that are known to go wrong: what a rule of an engine (its WARNINGS) may look at."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import zip_longest
from typing import NamedTuple

from harness.label.dialect import is_branch, since
from harness.schema import Launch, Model, Variant


class Case(NamedTuple):
    """What a combination may depend on."""

    variant: Variant
    flags: Mapping[str, str]
    """Flag -> value of the command line."""
    launch: Launch
    model: Model

    def is_release_before(self, first: str) -> bool:
        """An upstream release older than `first`; of a fork's branch nothing is known."""
        return not is_branch(self.variant.version) and not since(self.variant.version, first)

    def size(self, *names: str) -> int:
        """A parallel size of the command line; 1 where it is not said, or is no number (parsers say so)."""
        word = next((self.flags[name] for name in names if name in self.flags), "1")
        return int(word) if word.isdigit() else 1


Warnings = tuple[tuple[Callable[[Case], bool], str], ...]
"""(whether a case is such a combination, what goes wrong and what to do)."""


def flags(argv: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(flag, value) of each word: `--flag value` and `--flag=value`, underscores read as dashes."""
    for word, following in zip_longest(argv, argv[1:], fillvalue=""):
        if word.startswith("-"):
            flag, equals, value = word.partition("=")
            yield re.sub(r"(?<!^)(?<!^-)_", "-", flag), value if equals else following
