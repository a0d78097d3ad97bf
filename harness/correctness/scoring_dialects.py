"""How a reference engine is asked for teacher-forced logprobs: one pair of pure functions per HTTP dialect.

An engine file chooses with a constant, `SCORING = "prompt_logprobs"` (vLLM) or "prompt_logprobs_from" (our
transformers server), or brings its own pair, as SGLang's does: scoring(prompt_ids, output_ids, model, top_k)
and scored(response, prompt_ids, output_ids). An engine with neither cannot be a reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from harness import registry
from harness.errors import AttestationError, InputError
from harness.schema import Drawn, Played

Ids = Sequence[int]
LOWEST_LOGPROB = -9999.0
"""Stands for log 0, as vLLM's API has it: JSON has no infinities."""


class Forced(NamedTuple):
    """The reference's view of a given output: one entry per output token, in order."""

    logprob: tuple[float, ...]
    """Natural log of the probability of the token."""
    rank: tuple[int, ...]
    """1 + the number of strictly better tokens, so that tied best tokens all have rank 1."""
    margin: tuple[float, ...]
    """Best logprob - the token's, nats; >= 0."""
    top: tuple[dict[int, float], ...] = ()
    """The reference's best token ids with their logprobs, and the token itself."""
    played: Played | None = None
    """Where it was asked for the engine's precision too."""
    drawn: Drawn | None = None
    """Where it was asked what the tokens were to be drawn from."""


class Dialect(NamedTuple):
    """How to ask (path and body of a POST) and how to read the answer."""

    scoring: Callable[[Ids, Ids, str, int], tuple[str, dict[str, Any]]]
    scored: Callable[[dict[str, Any], Ids, Ids], Forced]
    plays: bool = False
    """Whether it can be asked what a precision, and named faults, do to the same tokens."""


def entry(logprob: Any, best: Any, rank: int | None) -> tuple[float, int, float]:
    """One token's (logprob, rank, margin). Raises AttestationError for a missing or non-finite logprob."""
    if not isinstance(logprob, int | float) or not isinstance(best, int | float):
        raise AttestationError("the reference answered without a logprob for a token it was asked to score")
    if math.isnan(logprob) or not math.isfinite(best):
        raise AttestationError(f"the reference's own logprobs are not numbers (token {logprob}, best {best})")
    own = max(float(logprob), LOWEST_LOGPROB)
    margin = max(0.0, float(best) - own)
    return own, (max(rank or 2, 2) if margin else 1), margin


def forced(entries: list[tuple[float, int, float]], top: list[dict[int, float]]) -> Forced:
    """One Forced of every token's (logprob, rank, margin) and what else was likely in its place."""
    return Forced(
        top=tuple(top),
        logprob=tuple(e[0] for e in entries),
        rank=tuple(e[1] for e in entries),
        margin=tuple(e[2] for e in entries),
    )


def _ask_prompt_logprobs(
    prompt_ids: Ids, output_ids: Ids, model: str, top_k: int
) -> tuple[str, dict[str, Any]]:
    """Scores prompt + output as a prompt. One token is generated because vLLM refuses max_tokens = 0."""
    body = {
        "model": model,
        "prompt": [*prompt_ids, *output_ids],
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": max(top_k, 1),
    }
    return "/v1/completions", body


def _ask_prompt_logprobs_from(
    prompt_ids: Ids, output_ids: Ids, model: str, top_k: int
) -> tuple[str, dict[str, Any]]:
    """The same, but only the output's positions are answered: a long prompt's own are most of the work."""
    path, body = _ask_prompt_logprobs(prompt_ids, output_ids, model, top_k)
    return path, {**body, "max_tokens": 0, "prompt_logprobs_from": max(len(prompt_ids), 1)}


def _read_prompt_logprobs(response: dict[str, Any], prompt_ids: Ids, output_ids: Ids) -> Forced:
    """Reads choices[0].prompt_logprobs: per position {token id: {logprob, rank}}, null for the first one.

    Raises AttestationError when positions or logprobs are missing.
    """
    choices = response.get("choices") or [{}]
    rows = choices[0].get("prompt_logprobs") or response.get("prompt_logprobs")
    expected = len(prompt_ids) + len(output_ids)
    if not rows or len(rows) != expected:
        raise AttestationError(
            f"the reference returned prompt logprobs for {len(rows or [])} of {expected} tokens: it does not "
            f"support prompt_logprobs; choose a reference that does ({', '.join(able())})"
        )
    entries, top = [], []
    for token, row in zip(output_ids, rows[len(prompt_ids) :], strict=True):
        own = (row or {}).get(str(token)) or {}
        best = max((e["logprob"] for e in (row or {}).values()), default=None)
        entries.append(entry(own.get("logprob"), best, own.get("rank")))
        top.append({int(name): max(e["logprob"], LOWEST_LOGPROB) for name, e in (row or {}).items()})
    return forced(entries, top)


def _read_played(response: dict[str, Any], prompt_ids: Ids, output_ids: Ids) -> Forced:
    """The same with choices[0].played, {logprob, margin, faults}, where it was asked for and fitted.

    And with choices[0].drawn, columns and faults, where that was asked for.
    """
    plain = _read_prompt_logprobs(response, prompt_ids, output_ids)
    if drawn := response["choices"][0].get("drawn"):
        plain = plain._replace(drawn=msgspec.convert(drawn, Drawn))
    played = response["choices"][0].get("played") or {}
    if len(played.get("logprob", ())) != len(output_ids):
        return plain
    faults = {name: tuple(values) for name, values in played["faults"].items()}
    return plain._replace(
        played=Played(
            precision="", logprob=tuple(played["logprob"]), margin=tuple(played["margin"]), faults=faults
        )
    )


DIALECTS = {
    "prompt_logprobs": Dialect(_ask_prompt_logprobs, _read_prompt_logprobs),
    "prompt_logprobs_from": Dialect(_ask_prompt_logprobs_from, _read_played, plays=True),
}


def able() -> tuple[str, ...]:
    """Engines that can score given tokens."""
    return tuple(
        name
        for name in registry.engines()
        if registry.fact(name, "SCORING", "") in DIALECTS or registry.fact(name, "scoring", None)
    )


def dialects() -> tuple[Dialect, ...]:
    """Every dialect there is, engines' own ones last."""
    own = (registry.engine(name) for name in able() if registry.fact(name, "scoring", None))
    return (*DIALECTS.values(), *(Dialect(module.scoring, module.scored) for module in own))


def dialect_of(engine_module: Any) -> Dialect:
    """The dialect an engine file states, or is. Raises InputError when it can not score given tokens."""
    if isinstance(engine_module, Dialect):
        return engine_module
    if hasattr(engine_module, "scoring") and hasattr(engine_module, "scored"):
        return Dialect(engine_module.scoring, engine_module.scored)
    name = getattr(engine_module, "SCORING", "")
    if name not in DIALECTS:
        engine = getattr(engine_module, "__name__", str(engine_module)).rsplit(".", 1)[-1]
        raise InputError(
            f"engine {engine} cannot be a reference: it does not score given tokens; "
            f"use a variant of an engine that does ({', '.join(able())})"
        )
    return DIALECTS[name]
