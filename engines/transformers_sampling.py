"""The distribution that a token was to be drawn from, and what it says of the token that came.

Processors in the order that the engine has them; see docs/SAMPLING.md. Runs inside the engine's own
environment (torch, transformers); the harness never imports it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec
import torch

CANONICAL = ("penalties", "temperature", "top_k", "top_p", "min_p")
Scope = Literal["all", "output"]


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How tokens are chosen; the defaults are neutral. `joint`, scopes: see harness.schema.Sampler."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 or below: all."""
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    order: tuple[str, ...] = CANONICAL
    joint: bool = False
    repetition_of: Scope = "all"
    presence_of: Scope = "output"
    no_end: bool = False
    """End tokens are impossible."""

    @property
    def penalises(self) -> bool:
        """Whether earlier tokens matter."""
        return (self.presence_penalty, self.frequency_penalty, self.repetition_penalty) != (0.0, 0.0, 1.0)


SLACK_P, SLACK_NATS = 0.01, 0.1
"""Room at the edge of a nucleus (probability), and of a top-k or min-p (nats): some eight times what bfloat16
moves a logprob by."""


class Before(NamedTuple):
    """How often each token stood before each of some positions: [positions, vocabulary], float."""

    everywhere: torch.Tensor
    in_output: torch.Tensor


def before(ids: Sequence[int], num_prompt: int, positions: range, vocab_size: int) -> Before:
    """Counts of ids[:position] for each position, in all of it and behind the prompt."""
    given = torch.tensor(list(ids), dtype=torch.int64)
    num = len(positions)
    steps = torch.zeros(num, vocab_size)
    steps[torch.arange(1, num), given[positions.start : positions.stop - 1]] = 1.0
    grown = steps.cumsum(0)
    first = given[: positions.start]
    return Before(
        grown + torch.bincount(first, minlength=vocab_size),
        grown + torch.bincount(first[num_prompt:], minlength=vocab_size),
    )


def processed(
    logits: torch.Tensor, how: Choice, earlier: Before | None, ends: Sequence[int], *, loose: bool = False
) -> torch.Tensor:
    """Log-probabilities [rows, vocabulary], float64, after all processors; -inf for what they drop.

    `loose`: with room for rounding at the edges of what they keep.
    """
    scores = logits.double().clone()
    if how.no_end:
        scores[:, list(ends)] = -torch.inf
    whole: torch.Tensor | None = None
    for step in how.order:
        if step == "penalties":
            scores = _penalised(scores, how, earlier)
        elif step == "temperature":
            scores = scores / how.temperature
        else:
            seen = torch.log_softmax(scores, -1)
            whole = seen if whole is None else whole
            keep = _KEEP[step](whole if how.joint else seen, how, loose)
            scores = scores.masked_fill(~keep, -torch.inf)
    return torch.log_softmax(scores, -1)


def _penalised(scores: torch.Tensor, how: Choice, earlier: Before | None) -> torch.Tensor:
    if earlier is None or not how.penalises:
        return scores
    scope = {
        "all": earlier.everywhere.to(scores.device),
        "output": earlier.in_output.to(scores.device),
    }
    repeated, counted = scope[how.repetition_of] > 0, scope[how.presence_of]
    factor = how.repetition_penalty
    scaled = torch.where(scores > 0, scores / factor, scores * factor)
    scores = torch.where(repeated, scaled, scores)
    return scores - how.frequency_penalty * counted - how.presence_penalty * (counted > 0)


def _top_k(seen: torch.Tensor, how: Choice, loose: bool) -> torch.Tensor:
    if not 0 < how.top_k < seen.shape[-1]:
        return torch.ones_like(seen, dtype=torch.bool)
    return seen >= seen.topk(how.top_k, -1).values[:, -1:] - SLACK_NATS * loose


def _top_p(seen: torch.Tensor, how: Choice, loose: bool) -> torch.Tensor:
    """The fewest best tokens whose probabilities reach top_p: those before which less than that stands."""
    if how.top_p >= 1:
        return torch.ones_like(seen, dtype=torch.bool)
    ordered, where = seen.exp().sort(-1, descending=True)
    kept = (ordered.cumsum(-1) - ordered) < how.top_p + SLACK_P * loose
    return torch.zeros_like(kept).scatter(-1, where, kept)


def _min_p(seen: torch.Tensor, how: Choice, loose: bool) -> torch.Tensor:
    edge = math.log(how.min_p) if how.min_p else -math.inf
    return seen >= seen.amax(-1, keepdim=True) + edge - SLACK_NATS * loose


_KEEP = {"top_k": _top_k, "top_p": _top_p, "min_p": _min_p}
