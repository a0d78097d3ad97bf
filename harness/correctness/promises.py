"""What the pre-flight of a server life found: which promises its endpoint keeps, how stable its output is."""

from __future__ import annotations

from collections.abc import Sequence

from harness.schema import Noun

DETERMINISM = "determinism.json"
"""In a server life's folder."""
RESPONSE_CACHE = "no answers from a response cache"
"""Point of servers that somebody else runs; where it is broken, the numbers are not an engine's."""


class Point(Noun):
    """One promise: kept or not, what was seen, and what follows for the measurement when it is not kept."""

    name: str
    held: bool
    found: str
    consequence: str


class Conformance(Noun):
    """conformance.json: the pre-flight of one server life."""

    points: tuple[Point, ...]


class Pass(Noun):
    """One pass over the prompts against the first pass (alone, one at a time)."""

    concurrency: int
    num_requests: int
    num_same: int
    """Requests with the same token ids (or text) as in the first pass."""
    first_divergence: int | None = None
    """Median output position of the first difference, over requests that differ."""
    max_abs_dlogprob: float | None = None
    """Over tokens up to the first difference, where logprobs are given: nats."""


class Determinism(Noun):
    """determinism.json: the passes of one server life."""

    passes: tuple[Pass, ...]


def broken(points: tuple[Point, ...]) -> tuple[str, ...]:
    """One sentence per point that did not hold."""
    return tuple(f"{p.name}: {p.found}; {p.consequence}" for p in points if not p.held)


def cached(points: tuple[Point, ...]) -> str:
    """Why nothing that this endpoint answers counts, "" where it generates its answers."""
    return next(
        (f"{p.found}; {p.consequence}" for p in points if p.name == RESPONSE_CACHE and not p.held), ""
    )


def stability(found: Sequence[Pass]) -> str:
    """One sentence for the report."""
    parts = [f"{p.num_same}/{p.num_requests} at {p.concurrency} in flight" for p in found]
    return f"greedy output equal to that of requests alone: {', '.join(parts)}"
