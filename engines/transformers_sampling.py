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


NEUTRAL = Choice()


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
        elif getattr(how, step) != getattr(NEUTRAL, step):
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
    ordered, where = seen.exp().sort(-1, descending=True)
    kept = (ordered.cumsum(-1) - ordered) < how.top_p + SLACK_P * loose
    return torch.zeros_like(kept).scatter(-1, where, kept)


def _min_p(seen: torch.Tensor, how: Choice, loose: bool) -> torch.Tensor:
    return seen >= seen.amax(-1, keepdim=True) + math.log(how.min_p) - SLACK_NATS * loose


_KEEP = {"top_k": _top_k, "top_p": _top_p, "min_p": _min_p}


# --- what a token says ---------------------------------------------------------------------------


class Drawn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question about an output that was sampled."""

    choice: Choice = Choice()
    beside: tuple[tuple[int, ...], ...] = ()
    """Per output token, what other outputs said at the same position; () = not asked."""
    seed: int | None = None
    noise: str = ""
    """Whose seeded noise to repeat, a key of NOISES; "" = nobody's."""


class Rows(NamedTuple):
    """Some output positions: what the model says there, and what came."""

    logits: torch.Tensor
    twin: torch.Tensor | None
    """Of the engine's precision."""
    targets: torch.Tensor
    earlier: Before | None
    ends: Sequence[int]


DECOY = 1 << 30
"""Added to a seed that is not the engine's."""
LOWEST = -9999.0
"""Stands for log 0: JSON has no infinities."""
ETA = 0.01
"""Share of the asked distribution in a named fault's: one token that the fault rules out decides nothing."""


def faults(asked: Choice) -> dict[str, Choice]:
    """Name -> what a sampler with this fault draws from, where it was asked for `asked`."""
    changes: dict[str, dict[str, object]] = {
        "temperature x 0.9": {"temperature": asked.temperature * 0.9},
        "temperature x 1.1": {"temperature": asked.temperature * 1.1},
        "temperature ignored": {"temperature": 1.0},
        "top_p ignored": {"top_p": 1.0},
        "top_k ignored": {"top_k": 0},
        "min_p ignored": {"min_p": 0.0},
        "top_k 20 slipped in": {"top_k": asked.top_k or 20},
        "penalties ignored": {
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
        },
        "repetition penalty twice": {"repetition_penalty": asked.repetition_penalty**2},
        "penalties of other tokens": {
            "repetition_of": "all" if asked.repetition_of == "output" else "output",
            "presence_of": "all" if asked.presence_of == "output" else "output",
        },
        "temperature last": {"order": (*(s for s in asked.order if s != "temperature"), "temperature")},
        "top_p of the other distribution": {"joint": not asked.joint},
    }
    return {
        n: other for n, c in changes.items() if _differs(other := msgspec.structs.replace(asked, **c), asked)
    }


def _differs(a: Choice, b: Choice) -> bool:
    """Whether two choices can draw differently: an order matters where a temperature meets a nucleus, ..."""
    if a == b:
        return False
    alike = msgspec.structs.replace(a, order=b.order, joint=b.joint) == b
    if alike and a.order != b.order:
        return b.temperature != 1 and (b.top_p < 1 or b.min_p > 0)
    if alike:
        return b.top_p < 1 and (b.top_k > 0 or b.min_p > 0)
    neutral = msgspec.structs.replace(a, repetition_of=b.repetition_of, presence_of=b.presence_of)
    return neutral != b or b.penalises


def measured(rows: Rows, drawn: Drawn, first: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """(column -> one value per row, fault -> its four sums over the rows); `first`: output position of row 0.

    Columns and sums: see harness.schema.Sampled.
    """
    asked = drawn.choice
    p = processed(rows.logits, asked, rows.earlier, rows.ends)
    dropped = torch.isinf(processed(rows.logits, asked, rows.earlier, rows.ends, loose=True))
    probability, surprise = p.exp(), torch.where(torch.isinf(p), 0.0, -p)
    here = rows.targets[:, None]
    own = p.gather(1, here)
    entropy = (probability * surprise).sum(-1)
    better = (p > own) | ((p == own) & (torch.arange(p.shape[-1], device=p.device) < here))
    low = (probability * better).sum(-1)
    upto = probability.cumsum(-1).gather(1, here)[:, 0]
    share = own.exp()[:, 0]
    columns = {
        "logprob": own[:, 0].clamp(min=LOWEST),
        "entropy": entropy,
        "variance": (probability * surprise**2).sum(-1) - entropy**2,
        "beyond": dropped.gather(1, here)[:, 0].double(),
        "cubes": (probability**3).sum(-1),
        "low": low,
        "high": low + share,
        "low_by_id": upto - share,
        "high_by_id": upto,
        "end": probability[:, list(rows.ends)].sum(-1),
    }
    if drawn.beside:
        others = drawn.beside[first : first + len(here)]
        columns["met"] = torch.stack([probability[n, list(ids)].sum() for n, ids in enumerate(others)])
    if drawn.noise and drawn.seed is not None:
        for name, seed in (("noise_margin", drawn.seed), ("decoy_margin", drawn.seed + DECOY)):
            noisy = p + NOISES[drawn.noise](seed, first, p)
            columns[name] = (noisy.amax(-1) - noisy.gather(1, here)[:, 0]).clamp(max=-LOWEST)
    if rows.twin is not None:
        q = processed(rows.twin, asked, rows.earlier, rows.ends)
        columns["stray"] = (q.exp() * dropped).sum(-1)
        kept = torch.log_softmax(q.masked_fill(torch.isinf(p), -torch.inf), -1).exp()
        columns["drift"] = (kept.nan_to_num() * surprise).sum(-1) - entropy
    served = {
        name: processed(rows.logits, other, rows.earlier, rows.ends).exp()
        for name, other in faults(asked).items()
    }
    period = 1 << ((p.shape[-1] - 1).bit_length() - 1)
    served[f"noise that repeats every {period} ids"] = repeating(probability, period)
    found = {name: _shown(q, probability, dropped, here) for name, q in served.items()}
    return {name: column.tolist() for name, column in columns.items()}, found


def repeating(p: torch.Tensor, period: int) -> torch.Tensor:
    """What the largest of log p + noise is drawn from where ids that differ by `period` share their noise: of
    each such class the likeliest alone. Noise of a shorter period, of a power of two, is among these.
    """
    where = (torch.arange(p.shape[-1], device=p.device) % period).expand_as(p)
    best = p.new_zeros(len(p), period).scatter_reduce(1, where, p, "amax")
    kept = torch.where(p < best.gather(1, where), 0.0, p)
    return kept / kept.sum(-1, keepdim=True)


def _shown(q: torch.Tensor, p: torch.Tensor, dropped: torch.Tensor, here: torch.Tensor) -> list[float]:
    """Of probabilities q (a fault's) and p [rows, vocabulary], what p drops, and the tokens that came:
    [log-likelihood ratio of these, its mean and variance under the fault, the fault's stray mass].
    """
    inside = q * (p > 0)
    inside = inside / inside.sum(-1, keepdim=True).clamp(min=1e-30)
    drawn = ETA * p + (1 - ETA) * inside
    log = torch.where(p > 0, drawn / p, 1.0).log()
    weighted = drawn * log
    mean = weighted.sum(-1)
    variance = (weighted * log).sum(-1) - mean**2
    stray = (q * dropped).sum()
    return [float(part.sum()) for part in (log.gather(1, here), mean, variance, stray)]


# --- noise that engines draw from a request's seed -------------------------------------------------


def _vllm_cpu(seed: int, first: int, like: torch.Tensor) -> torch.Tensor:
    """Gumbel noise [rows, vocabulary] of vLLM's CPU sampler for the rows behind output position `first`.

    A torch generator of the request's seed gives one number per step; SplitMix64 of it and of the token gives
    53 bits (vllm/v1/sample/ops/topk_topp_sampler.py forward_cpu and csrc/cpu/sampler.cpp, 0.32.0).
    """
    generator = torch.Generator().manual_seed(seed)
    steps = [torch.randint(0, 2**31, (1,), generator=generator) for _ in range(first + len(like))][first:]
    token = torch.arange(1, like.shape[-1] + 1, dtype=torch.int64)
    bits = _shifted(_splitmix64(_splitmix64(torch.stack(steps)) + token * _signed(0x9E3779B97F4A7C15)), 11)
    uniform = (bits.double() + 0.5) * 2.0**-53
    return -torch.log(-torch.log(uniform)).to(like.device)


def _splitmix64(z: torch.Tensor) -> torch.Tensor:
    """The finaliser of SplitMix64 on int64 tensors that hold unsigned bits."""
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shifted(z, 31)


def _shifted(z: torch.Tensor, by: int) -> torch.Tensor:
    """To the right, zeros coming in."""
    return (z >> by) & ((1 << (64 - by)) - 1)


def _signed(bits: int) -> int:
    return bits - (1 << 64) if bits >> 63 else bits


NOISES = {"vllm-cpu": _vllm_cpu}
"""Noise on log-probabilities, the largest sum being what is said."""
