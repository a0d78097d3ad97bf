"""The verb `probe`: which promises a running endpoint keeps, and how far its greedy output is from stable."""

from __future__ import annotations

import msgspec

from harness import models
from harness.client import acceptance, endpoint
from harness.client.body import Target
from harness.correctness import conformance, determinism, known_answers, promises, response_cache
from harness.errors import HarnessError, InputError
from harness.escape import plain
from harness.schema import Noun

NUM_PROMPTS = 16
OUTPUT_LEN = 48


class Probed(Noun):
    """Everything the probe found."""

    points: tuple[promises.Point, ...]
    known: tuple[known_answers.KnownResult, ...]
    passes: tuple[promises.Pass, ...]
    accepted: acceptance.Acceptance = acceptance.Acceptance()


def run(url: str, model: str = "", *, harsh: bool = False, api_key_env: str = "") -> Probed:
    """Probe the endpoint at base `url`; `model` = its served name, "" = the first it lists.

    `harsh` sends also a token id beyond the vocabulary; `api_key_env` names the variable with its API key.
    Raises InputError when nothing answers there, LaunchError when its answers do not end.
    """
    name = model or _first_model(url, api_key_env)
    asked = Target(base_url=url, model=name, api_key_env=api_key_env)
    accepted = acceptance.ask(asked, ("ids", "text", "chat"))
    way = accepted.prompts
    target = acceptance.applied(asked, accepted)
    conformance.answering(target, way)
    known = _known(target, name)
    prompts = determinism.prompts(NUM_PROMPTS, OUTPUT_LEN, logprobs=True, way=way)
    passes = determinism.passes(target, prompts)
    cached = response_cache.ask(target, way)
    # Last, because an engine may die of it.
    points = (*conformance.preflight(target, harsh=harsh, way=way), cached)
    return Probed(points=points, known=known, passes=passes, accepted=accepted)


def _known(target: Target, name: str) -> tuple[known_answers.KnownResult, ...]:
    """The answers known of this model; one that no alias names is asked the smoke test, for show."""
    try:
        model = models.resolve(name)
    except HarnessError:
        found = known_answers.ask(target, known_answers.SMOKE)
        return tuple(msgspec.structs.replace(r, held=r.held or None) for r in found)
    answers = known_answers.of(model)
    return known_answers.ask(target, answers) if answers else ()


def lines(found: Probed) -> list[str]:
    """What to print, one finding a line."""
    told = [
        f"{'kept  ' if p.held else 'BROKEN'}  {p.name}: {p.found}" + ("" if p.held else f"; {p.consequence}")
        for p in found.points
    ]
    told += [f"refused  {note}" for note in found.accepted.notes]
    compared = [k for k in found.known if k.held is not None]
    if compared:
        told.append(f"known answers: {sum(k.held is True for k in compared)} of {len(compared)} right")
    told += [f"{k.question} {plain(k.found, 80)}" for k in found.known if not k.question.endswith("...")]
    return [*told, promises.stability(found.passes)]


def _first_model(url: str, api_key_env: str) -> str:
    names = endpoint.served(url, api_key_env)
    if not names:
        raise InputError(
            f"{url.rstrip('/')} lists no model at /v1/models; give the base URL of a running "
            "OpenAI-compatible server, and its model's name"
        )
    return names[0]
