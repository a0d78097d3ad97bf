"""Before the timed parts: which promises of its API a server keeps, asked in a limited time."""

from __future__ import annotations

import time
from pathlib import Path

from harness import client, registry, server, store
from harness.client import acceptance
from harness.correctness import conformance, determinism, known_answers, promises, response_cache
from harness.errors import LaunchError
from harness.planned import Planned
from harness.schema import Model, Sampler

PREFLIGHT_S = 300.0
"""Longest the pre-flight may take in all, unless a single timed request may take longer."""
CONFORMANCE = "conformance.json"


def preflight(visit: Path, running: server.Running, planned: Planned, request_s: float) -> None:
    """Ask what the engine takes of a request, then write which promises of its API it keeps.

    Those it breaks become notes of its rows. What follows from command and version, which all lives of a
    variant have in common, is asked of the first; known answers of each. A server that somebody else runs is
    asked everything, and whether it answers from memory: what lies before its engine is not known.

    `request_s`: longest that a timed request may take. Raises LaunchError when not all is answered in time.
    """
    limit_s = max(PREFLIGHT_S, request_s)
    engine = registry.engine(running.launch.engine)
    target = client.Target(
        base_url=running.launch.base_url,
        model=running.launch.served_model_name,
        extras=dict(getattr(engine, "EXTRAS", {})),
        sampler=getattr(engine, "SAMPLER", Sampler()),
        api_key_env=running.launch.api_key_env,
        ends_at_s=time.monotonic() + limit_s,
    )
    running.accepted = acceptance.ask(target, planned.ways, planned.sampling)
    way = running.accepted.prompts
    target = acceptance.applied(target, running.accepted)
    others = (path for path in visit.parent.glob(f"r*/{CONFORMANCE}") if path.parent != visit)
    asked_before = planned.own_server and any(others)
    points = () if asked_before else conformance.preflight(target, way=way)
    if way == "ids":
        points = (*points, *known(target, planned.model))
    if not planned.own_server:
        points = (*points, response_cache.ask(target, way))
    store.write(visit / CONFORMANCE, promises.Conformance(points=points))
    _in_time(running, target, limit_s)
    if asked_before:
        return
    prompts = determinism.prompts(determinism.NUM_IN_PREFLIGHT, way=way)
    passes = determinism.passes(target, prompts, (1, 1, len(prompts)))
    _in_time(running, target, limit_s)
    store.write(visit / promises.DETERMINISM, promises.Determinism(passes=passes))


def _in_time(running: server.Running, target: client.Target, limit_s: float) -> None:
    if time.monotonic() > target.ends_at_s:
        raise LaunchError(
            f"{running.launch.variant}: the pre-flight's small questions were not all answered within "
            f"{limit_s:g} s: it stalls, or trickles; mend it, or wait longer with timeout={2 * limit_s:g}."
        )


def known(target: client.Target, model: Model) -> tuple[promises.Point, ...]:
    """Whether it gives the answers that are known of this model; () where none are."""
    answers = known_answers.of(model)
    if not answers:
        return ()
    compared = [r for r in known_answers.ask(target, answers) if r.held is not None]
    if not compared:
        return ()
    wrong = [r for r in compared if not r.held]
    found = f"{len(wrong)} of {len(compared)} wrong"
    return (
        promises.Point(
            name=answers[0].prompt or "known greedy answers",
            held=not wrong,
            found=f"{found}, first: {wrong[0].found}" if wrong else found,
            consequence="this engine computes this model wrongly, or runs another one",
        ),
    )
