"""Replay of recorded traffic: lengths and times from a trace, tokens drawn to fit.

Reads Mooncake JSONL (timestamp in ms, input_length, output_length, hash_ids: equal ids are equal blocks of
512 tokens), Azure LLM inference CSV (TIMESTAMP, ContextTokens, GeneratedTokens) and BurstGPT CSV (Timestamp
in s, Request tokens, Response tokens). Params: path (required), max_input_len and max_output_len (0 = no
limit; longer entries are left out), skip (0, entries). Use with arrival=trace; time_scale=2 replays twice
as fast.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import msgspec

from harness.errors import InputError
from harness.schema import Request, WorkloadSpec
from harness.tokens import Vocabulary
from harness.workload_params import positive, text

BLOCK_LEN = 512


class Entry(NamedTuple):
    """One recorded request."""

    at_s: float
    input_len: int
    output_len: int
    blocks: tuple[int, ...] = ()


class MooncakeLine(msgspec.Struct):
    """One line of a Mooncake trace."""

    timestamp: float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...] = ()


def requests(spec: WorkloadSpec, vocabulary: Vocabulary) -> tuple[Request, ...]:
    """num_prompts entries in time order; due times in seconds after the first of them."""
    entries = sorted(_read(spec))
    return tuple(
        Request(
            request_id=f"trace-{i}",
            prompt_token_ids=_prompt(spec.seed, i, entry, vocabulary),
            max_tokens=entry.output_len,
            seed=spec.seed,
            due_at_s=entry.at_s - entries[0].at_s,
        )
        for i, entry in enumerate(entries)
    )


def longest(spec: WorkloadSpec) -> tuple[int, int]:
    """Longest input and output among the entries that would be replayed."""
    entries = _read(spec)
    return max(e.input_len for e in entries), max(e.output_len for e in entries)


def expected_hit_share(spec: WorkloadSpec) -> float:
    """Share of prompt tokens an ideal cache has seen: leading blocks that led an earlier request too."""
    tree: dict[tuple[int, int], int] = {}
    reused = 0
    entries = sorted(_read(spec))
    for entry in entries:
        node = known = 0
        for depth, block in enumerate(entry.blocks):
            known += known == depth and (node, block) in tree
            node = tree.setdefault((node, block), len(tree) + 1)
        reused += min(known * BLOCK_LEN, entry.input_len)
    return reused / sum(entry.input_len for entry in entries)


def _prompt(seed: int, index: int, entry: Entry, vocabulary: Vocabulary) -> tuple[int, ...]:
    """Whole blocks from their ids, the rest the request's own, so that prefixes are shared as recorded."""
    pool = vocabulary.plain_ids
    ids: list[int] = []
    for block in entry.blocks:
        ids += random.Random(f"block:{seed}:{block}").choices(pool, k=BLOCK_LEN)
    missing = entry.input_len - len(ids)
    if missing > 0:
        ids += random.Random(f"trace:{seed}:{index}").choices(pool, k=missing)
    return tuple(ids[: entry.input_len])


def _read(spec: WorkloadSpec) -> tuple[Entry, ...]:
    if not text(spec, "path"):
        raise InputError("workload trace needs path=FILE: a Mooncake JSONL, Azure CSV or BurstGPT CSV trace")
    limits = (_optional(spec, "max_input_len"), _optional(spec, "max_output_len"))
    return _load(text(spec, "path"), limits, _optional(spec, "skip"), spec.num_prompts)


def _optional(spec: WorkloadSpec, name: str) -> int:
    return positive(spec, name, 1) if spec.params.get(name) else 0


@lru_cache(maxsize=4)
def _load(name: str, limits: tuple[int, ...], skip: int, num: int) -> tuple[Entry, ...]:
    path = Path(name)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            fitting = (e for e in _parse(file) if _fits(e, limits))
            entries = tuple(islice(fitting, skip, skip + num))
    except OSError as error:
        raise InputError(f"workload trace: {path} cannot be read ({error.strerror}): check path=") from error
    except (ValueError, KeyError, TypeError, msgspec.DecodeError) as error:
        raise InputError(
            f"workload trace: {path} is no Mooncake, Azure or BurstGPT trace ({error}): see trace.py"
        ) from error
    if not entries:
        raise InputError(
            f"workload trace: {path} has no entry within the limits: raise max_input_len, lower skip"
        )
    return entries


def _fits(entry: Entry, limits: tuple[int, ...]) -> bool:
    """Inside the limits, and with something to read and to write (failed requests are recorded as 0)."""
    sizes = (entry.input_len, entry.output_len)
    return all(size > 0 and (not limit or size <= limit) for size, limit in zip(sizes, limits, strict=True))


def _parse(file: Iterator[str]) -> Iterator[Entry]:
    first = next(file, "")
    if first.lstrip().startswith("{"):
        decode = msgspec.json.Decoder(MooncakeLine).decode
        for line in chain((first,), file):
            if line.strip():
                m = decode(line)
                yield Entry(m.timestamp / 1000, m.input_length, m.output_length, m.hash_ids)
        return
    names = next(csv.reader([first]), [])
    for row in csv.DictReader(file, fieldnames=names):
        if "ContextTokens" in names:
            yield Entry(_unix_s(row["TIMESTAMP"]), int(row["ContextTokens"]), int(row["GeneratedTokens"]))
        else:
            yield Entry(float(row["Timestamp"]), int(row["Request tokens"]), int(row["Response tokens"]))


def _unix_s(stamp: str) -> float:
    """Seconds since 1970; a stamp without a zone is UTC, so that no host's clock changes the gaps."""
    at = datetime.fromisoformat(_microseconds(stamp))
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _microseconds(stamp: str) -> str:
    """The 2023 trace writes 100 ns digits, which datetime does not read."""
    whole, dot, rest = stamp.partition(".")
    if not dot:
        return stamp
    digits = len(rest) - len(rest.lstrip("0123456789"))
    return f"{whole}.{rest[:digits][:6].ljust(6, '0')}{rest[digits:]}"
