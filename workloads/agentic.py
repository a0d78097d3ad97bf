"""Agents at work: a main conversation, sub-agents that it starts and waits for, think times in between.

With path=FILE or a folder of them: sessions as Weka's KV-cache tester records them and AgentX publishes
them, a JSON object each (or one a line): id, block_size, and requests of type n or s (t, in, out, hash_ids,
api_time, think_time) and subagent (agent_id, status, requests of its own). Equal hash_ids of one session are
equal blocks; what follows a sub-agent waits for its last request unless its status is async_launched. Gaps
are think times: what was recorded between the end of one request and the start of the next; time_scale=2
halves them.

Without path, sessions are made: turns (4) of the main agent, of which each later one carries the engine's own
answers; after its first, subagents (2) of sub_turns (2) each, which the second waits for. All begin with the
same system_len (256) tokens; turn_len (64) new tokens a turn, output_len (64), think_ms (200) before whatever
waits. num_prompts counts requests; a last session may be shorter. block_len (1): ideal caches are counted in
whole blocks of so many tokens.
Params for both: max_input_len (0 = no limit; a recorded session ends before a longer request).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from harness.errors import InputError
from harness.schema import Request, WorkloadSpec
from harness.tokens import Vocabulary
from harness.workload_params import positive, text

ASYNCHRONOUS = "async_launched"


class Entry(msgspec.Struct, rename={"input_len": "in", "output_len": "out"}):
    """One recorded request, or a sub-agent with its own."""

    t: float
    type: str = "n"
    input_len: int = 0
    output_len: int = 0
    hash_ids: tuple[int, ...] = ()
    api_time: float | None = None
    think_time: float | None = None
    agent_id: str = ""
    status: str = ""
    requests: tuple[Any, ...] = ()


class Session(msgspec.Struct):
    """One recorded session."""

    id: str
    block_size: int
    requests: tuple[Entry, ...]
    hash_id_scope: str = "local"


class Step(NamedTuple):
    """One request of a recorded session, and what it waits for."""

    name: str
    entry: Entry
    after: tuple[str, ...]
    think_s: float


def requests(spec: WorkloadSpec, vocabulary: Vocabulary) -> tuple[Request, ...]:
    """num_prompts requests; sessions side by side, what waits for another behind it."""
    if text(spec, "path"):
        return tuple(_recorded(spec, vocabulary))[: spec.num_prompts]
    return tuple(_made(spec, vocabulary))[: spec.num_prompts]


def longest(spec: WorkloadSpec) -> tuple[int, int]:
    """Longest input and output."""
    if text(spec, "path"):
        entries = [step.entry for session in _sessions(spec) for step in _steps(spec, session)]
        return max(e.input_len for e in entries), max(e.output_len for e in entries)
    sizes = _Sizes.of(spec)
    turns = max(sizes.turns, sizes.sub_turns)
    last = sizes.system + turns * sizes.turn + (turns - 1) * sizes.output
    return last, sizes.output


def expected_hit_share(spec: WorkloadSpec) -> float:
    """Share of prompt tokens, in whole blocks, that an ideal cache has seen when each request comes."""
    return _recorded_share(spec) if text(spec, "path") else _made_share(spec)


# --- recorded --------------------------------------------------------------------------------------


def _recorded(spec: WorkloadSpec, vocabulary: Vocabulary) -> Iterator[Request]:
    pool = vocabulary.plain_ids
    for session in _sessions(spec):
        for step in _steps(spec, session):
            ids: list[int] = []
            for block in step.entry.hash_ids:
                draw = random.Random(f"block:{spec.seed}:{session.id}:{block}")
                ids += draw.choices(pool, k=session.block_size)
            missing = step.entry.input_len - len(ids)
            if missing > 0:
                ids += random.Random(f"own:{spec.seed}:{step.name}").choices(pool, k=missing)
            yield Request(
                request_id=step.name,
                prompt_token_ids=tuple(ids[: step.entry.input_len]),
                max_tokens=step.entry.output_len,
                seed=spec.seed,
                after=step.after,
                think_s=step.think_s,
            )


def _steps(spec: WorkloadSpec, session: Session) -> list[Step]:
    """The main agent's requests and its sub-agents', each with what it waits for."""
    limit = positive(spec, "max_input_len", 1) if spec.params.get("max_input_len") else 0
    steps: list[Step] = []
    before, ended, joins = "", 0.0, list[tuple[str, float]]()
    number = 0
    for entry in session.requests:
        if entry.type == "subagent":
            joins += _sub_agent(spec, session, entry, steps, (before, ended))
            continue
        if limit and entry.input_len > limit:
            break
        name = f"{session.id}/main-{number}"
        free = max([ended, *(end for _, end in joins)])
        after = tuple(dict.fromkeys(filter(None, (before, *(last for last, _ in joins)))))
        steps.append(Step(name, entry, after, _gap(entry, free) if after else 0.0))
        before, ended, joins, number = name, _end(entry, entry.t), [], number + 1
    return steps


def _sub_agent(
    spec: WorkloadSpec, session: Session, marker: Entry, steps: list[Step], start: tuple[str, float]
) -> list[tuple[str, float]]:
    """Adds a sub-agent's requests; [(its last, when that ended)] where the main agent waits for it."""
    inner = [msgspec.convert(one, Entry) for one in marker.requests]
    inner = [one for one in inner if one.type != "subagent" and one.input_len]
    relative = any(one.t < marker.t for one in inner)
    before, ended = start
    for number, one in enumerate(inner):
        at = one.t + marker.t * relative
        name = f"{session.id}/{marker.agent_id}-{number}"
        think_s = one.think_time if one.think_time is not None else max(0.0, at - ended)
        steps.append(Step(name, one, (before,) if before else (), think_s if before else 0.0))
        before, ended = name, _end(one, at)
    waits = inner and marker.status != ASYNCHRONOUS
    return [(before, ended)] if waits else []


def _gap(entry: Entry, free: float) -> float:
    return entry.think_time if entry.think_time is not None else max(0.0, entry.t - free)


def _end(entry: Entry, at: float) -> float:
    return at + (entry.api_time or 0.0)


def _recorded_share(spec: WorkloadSpec) -> float:
    reused = read = 0
    for session in _sessions(spec):
        tree: dict[tuple[int, int], int] = {}
        for step in _steps(spec, session):
            node = known = 0
            for depth, block in enumerate(step.entry.hash_ids):
                known += known == depth and (node, block) in tree
                node = tree.setdefault((node, block), len(tree) + 1)
            reused += min(known * session.block_size, step.entry.input_len)
            read += step.entry.input_len
    return reused / read if read else 0.0


def _sessions(spec: WorkloadSpec) -> tuple[Session, ...]:
    return _load(text(spec, "path"))


@lru_cache(maxsize=4)
def _load(name: str) -> tuple[Session, ...]:
    path = Path(name)
    files = sorted(path.glob("*.json*")) if path.is_dir() else [path]
    try:
        found = tuple(session for file in files for session in _parse(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(
            f"workload agentic: {path} cannot be read ({error.strerror}): check path="
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"workload agentic: {path} is no session trace ({error}): see agentic.py") from error
    if not found or not any(s.requests for s in found):
        raise InputError(f"workload agentic: {path} holds no session: name a file or folder of traces")
    return found


def _parse(content: str) -> Iterator[Session]:
    """One session, or one a line."""
    decode = msgspec.json.Decoder(Session).decode
    try:
        yield decode(content)
    except msgspec.DecodeError:
        for line in content.splitlines():
            if line.strip():
                yield decode(line)


# --- made ------------------------------------------------------------------------------------------


class _Sizes(NamedTuple):
    turns: int
    subagents: int
    sub_turns: int
    system: int
    turn: int
    output: int
    block: int
    think_s: float

    @classmethod
    def of(cls, spec: WorkloadSpec) -> _Sizes:
        return cls(
            turns=positive(spec, "turns", 4),
            subagents=positive(spec, "subagents", 2) if spec.params.get("subagents", 2) else 0,
            sub_turns=positive(spec, "sub_turns", 2),
            system=positive(spec, "system_len", 256),
            turn=positive(spec, "turn_len", 64),
            output=positive(spec, "output_len", 64),
            block=positive(spec, "block_len", 1),
            think_s=positive(spec, "think_ms", 200) / 1000 if spec.params.get("think_ms", 200) else 0.0,
        )

    @property
    def per_session(self) -> int:
        return self.turns + self.subagents * self.sub_turns


class _Planned(NamedTuple):
    name: str
    conversation: str
    turn: int
    after: tuple[str, ...]


def _plan(spec: WorkloadSpec) -> Iterator[_Planned]:
    """Requests in an order in which nothing waits for what comes later."""
    sizes = _Sizes.of(spec)
    for number in range(-(-spec.num_prompts // sizes.per_session)):
        agent = f"agent-{number}"
        yield _Planned(f"{agent}/main-0", f"{agent}/main", 0, ())
        for sub in range(sizes.subagents):
            for turn in range(sizes.sub_turns):
                after = () if turn else (f"{agent}/main-0",)
                yield _Planned(f"{agent}/sub{sub}-{turn}", f"{agent}/sub{sub}", turn, after)
        joined = tuple(f"{agent}/sub{sub}-{sizes.sub_turns - 1}" for sub in range(sizes.subagents))
        for turn in range(1, sizes.turns):
            yield _Planned(f"{agent}/main-{turn}", f"{agent}/main", turn, joined if turn == 1 else ())


def _made(spec: WorkloadSpec, vocabulary: Vocabulary) -> Iterator[Request]:
    sizes, pool = _Sizes.of(spec), vocabulary.plain_ids
    system = tuple(random.Random(f"system:{spec.seed}").choices(pool, k=sizes.system))
    for one in _plan(spec):
        own = tuple(random.Random(f"agent:{spec.seed}:{one.name}").choices(pool, k=sizes.turn))
        waits = bool(one.turn or one.after)
        yield Request(
            request_id=one.name,
            prompt_token_ids=own if one.turn else (*system, *own),
            max_tokens=sizes.output,
            seed=spec.seed,
            session=one.conversation,
            after=one.after,
            think_s=sizes.think_s if waits else 0.0,
        )


def _made_share(spec: WorkloadSpec) -> float:
    sizes = _Sizes.of(spec)
    reused = read = 0
    for number, one in enumerate(list(_plan(spec))[: spec.num_prompts]):
        length = sizes.system + (one.turn + 1) * sizes.turn + one.turn * sizes.output
        seen = length - sizes.turn if one.turn else sizes.system * (number > 0)
        reused += seen // sizes.block * sizes.block
        read += length
    return reused / read
