"""What stood behind each name in the table: version, image, weights and command of every variant. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from harness.schema import Ran

HEADERS = ("variant", "engine", "version it showed", "image", "weights", "launches")
ABOUT = (
    "Versions are those that the running engines showed. The commands are typed in the repository's root; "
    "launches that differed by nothing but the port are shown once."
)


def rows(ran: Iterable[Ran]) -> list[tuple[str, ...]]:
    """Cells under HEADERS."""
    return [
        (
            one.variant,
            one.engine,
            one.engine_version or "not shown",
            f"{one.image} {one.image_digest}".strip() or "-",
            one.weights or "not known",
            str(one.num_launches),
        )
        for one in ran
    ]


def commands(ran: Iterable[Ran]) -> list[tuple[str, str]]:
    """Variant and command, one each."""
    return [(one.variant, command) for one in ran for command in one.commands]
