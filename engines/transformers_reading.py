"""Given sequences read by a model, several at a time: what several outputs followed is read once.

Runs inside the engine's own environment (torch, transformers); the harness never imports it.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch

SCORES_AT_ONCE = 2**26
"""Sequences x positions x length of a pass: in fp32 attention keeps that many scores per head, and 30,000
tokens read whole asked for 134 GB. Every pass visits every expert, so small ones cost time."""


class Given(NamedTuple):
    """A sequence of token ids of which the positions `first` .. len(ids) - 1 are asked for; `first` >= 1."""

    ids: list[int]
    first: int


class Reader(NamedTuple):
    """A model and how it is read: `during` holds meanwhile, `cache` makes what keeps keys and values."""

    model: Any
    cache: Callable[[], Any] | None = None
    during: Callable[[], AbstractContextManager[None]] = nullcontext


@torch.inference_mode()
def hidden(reader: Reader, sequences: Sequence[Given]) -> list[torch.Tensor]:
    """Per sequence the last hidden states [len(ids) - first, width] that predict its positions."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, given in enumerate(sequences):
        groups[tuple(given.ids[: given.first - 1])].append(number)
    rows: dict[int, torch.Tensor] = {}
    with reader.during():
        alone = [numbers[0] for numbers in groups.values() if len(numbers) == 1]
        for batch in _batches(alone, [len(s.ids) for s in sequences]):
            rows |= _whole(reader, sequences, batch)
        for before, numbers in groups.items():
            left = [n for n in numbers if n not in rows]
            if left:
                rows |= _behind(reader, before, sequences, left)
    return [rows[number] for number in range(len(sequences))]


def logits(model: Any, states: torch.Tensor) -> torch.Tensor:
    """[positions, vocabulary] of hidden states, in float32 or better."""
    made = model.lm_head(states)
    return made.to(torch.promote_types(made.dtype, torch.float32))


def own_logits(reader: Reader, states: torch.Tensor) -> torch.Tensor:
    """The same as the reader computes them."""
    with reader.during():
        return logits(reader.model, states)


def pieces(model: Any, ids: Sequence[int], past: Any = None) -> Iterator[tuple[torch.Tensor, Any]]:
    """(hidden states [positions, width], cache so far) of one sequence behind `past`, piece by piece."""
    length = len(ids) + (past.get_seq_length() if past is not None else 0)
    size = max(SCORES_AT_ONCE // max(length, 1), 1)
    for first in range(0, len(ids), size):
        batch = torch.tensor([list(ids[first : first + size])], device=model.device)
        out = model.model(input_ids=batch, past_key_values=past, use_cache=True)
        past = out.past_key_values
        yield out.last_hidden_state[0], past


def _batches(numbers: list[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Sequences of like length, as many as a pass may hold; those too long for one pass are left out."""
    batch: list[int] = []
    for number in sorted(numbers, key=lambda n: lengths[n]):
        if lengths[number] ** 2 > SCORES_AT_ONCE:
            break
        if batch and (len(batch) + 1) * lengths[number] ** 2 > SCORES_AT_ONCE:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _whole(reader: Reader, sequences: Sequence[Given], batch: list[int]) -> dict[int, torch.Tensor]:
    """Sequences read from their beginnings in one pass; what pads the shorter ones stands behind them."""
    past = reader.cache() if reader.cache else None
    states = _padded(reader.model, [sequences[n].ids[:-1] for n in batch], past)
    return {n: row[sequences[n].first - 1 :] for n, row in zip(batch, states, strict=True)}


def _behind(
    reader: Reader, before: Sequence[int], sequences: Sequence[Given], numbers: list[int]
) -> dict[int, torch.Tensor]:
    """Sequences that begin alike: the beginning is read once, then as many ends at a time as may be."""
    past = reader.cache() if reader.cache else None
    for _, reached in pieces(reader.model, before, past):
        past = reached
    ends = {n: sequences[n].ids[len(before) : -1] for n in numbers}
    length = len(before) + max(map(len, ends.values()))
    at_once = max(SCORES_AT_ONCE // (max(map(len, ends.values())) * length), 1)
    rows: dict[int, torch.Tensor] = {}
    for first in range(0, len(numbers), at_once):
        batch = numbers[first : first + at_once]
        own = copy.deepcopy(past)
        if len(batch) == 1:
            found = pieces(reader.model, ends[batch[0]], own)
            rows[batch[0]] = torch.cat([states for states, _ in found])
            continue
        if own is not None and before:
            own.batch_repeat_interleave(len(batch))
        states = _padded(reader.model, [ends[n] for n in batch], own)
        rows |= dict(zip(batch, states, strict=True))
    return rows


def _padded(model: Any, rows: Sequence[Sequence[int]], past: Any) -> list[torch.Tensor]:
    """Hidden states [len(row), width] of each row, read side by side behind `past`."""
    longest = max(map(len, rows))
    batch = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=model.device)
    out = model.model(input_ids=batch, past_key_values=past, use_cache=past is not None)
    return [states[: len(row)] for row, states in zip(rows, out.last_hidden_state, strict=True)]
