"""The verb `probe`: which promises a running endpoint keeps, and how far its greedy output is from stable."""

from __future__ import annotations

from typing import Any

import requests

from harness import models
from harness.client.body import Target
from harness.correctness import conformance, determinism, known_answers
from harness.errors import HarnessError, InputError
from harness.schema import Noun, Request

NUM_PROMPTS = 16
PROMPT_LEN, OUTPUT_LEN = 32, 48


class Probed(Noun):
    """Everything the probe found."""

    points: tuple[conformance.Point, ...]
    known: tuple[known_answers.KnownResult, ...]
    passes: tuple[determinism.Pass, ...]


def run(url: str, model: str = "", *, harsh: bool = False) -> Probed:
    """Probe the endpoint at base `url`; `model` = its served name, "" = the first it lists.

    `harsh` sends also a token id beyond the vocabulary. Raises InputError when nothing answers there.
    """
    name = model or _first_model(url)
    target = Target(base_url=url, model=name)
    try:
        answers = known_answers.load(models.resolve(name).path)
    except HarnessError:
        answers = ()
    known = known_answers.ask(target, answers) if answers else ()
    passes = determinism.passes(target, _prompts())
    # Last, because an engine may die of it.
    return Probed(points=conformance.preflight(target, harsh=harsh), known=known, passes=passes)


def lines(found: Probed) -> list[str]:
    """What to print, one finding a line."""
    told = [
        f"{'kept  ' if p.held else 'BROKEN'}  {p.name}: {p.found}" + ("" if p.held else f"; {p.consequence}")
        for p in found.points
    ]
    compared = [k for k in found.known if k.held is not None]
    if compared:
        told.append(f"known greedy answers: {sum(k.held is True for k in compared)} of {len(compared)} right")
    return [*told, determinism.words(found.passes)]


def _prompts() -> list[Request]:
    """Ids that every vocabulary has, different in each."""
    return [
        Request(
            request_id=f"probe-{i}",
            prompt_token_ids=tuple(100 + (i * 37 + j * 11) % 800 for j in range(PROMPT_LEN)),
            max_tokens=OUTPUT_LEN,
        )
        for i in range(NUM_PROMPTS)
    ]


def _first_model(url: str) -> str:
    base = url.rstrip("/").removesuffix("/v1")
    try:
        listed: Any = requests.get(f"{base}/v1/models", timeout=10).json()
        return str(listed["data"][0]["id"])
    except (requests.RequestException, ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(
            f"{base}/v1/models does not list a model ({type(error).__name__}); give the base URL of a "
            "running OpenAI-compatible server, and its model's name"
        ) from error
