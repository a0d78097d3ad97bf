"""What a verb reads off the command line, and how it answers on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from harness.schema import Comparison

Words = Annotated[list[str] | None, typer.Argument(show_default=False)]


def show(comparison: Comparison) -> None:
    """Print table and footnotes of a comparison on stdout."""
    from harness.reporting import report

    for line in report.opening(comparison):
        say(line)
    say("")
    Console().print(report.table(comparison))
    for line in report.footnotes(comparison):
        say(line)


def say(text: str, *, stderr: bool = False) -> None:
    """Print text as it is: nothing in it is markup, no line is cut."""
    Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True).print(text)
