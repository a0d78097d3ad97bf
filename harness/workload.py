"""From a workload's words to the exact requests every engine gets, with a hash that proves it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

import msgspec

from harness import registry
from harness.client import pacing
from harness.errors import InputError
from harness.schema import Load, Prompts, Request, Workload, WorkloadSpec
from harness.tokens import Vocabulary

_encode = msgspec.json.Encoder(order="deterministic").encode


def build(
    spec: WorkloadSpec, load: Load, vocabulary: Vocabulary, num_verify: int = 0
) -> tuple[tuple[Request, ...], Workload]:
    """All requests with due times set and `num_verify` of them (seeded) marked for logprobs.

    Raises InputError for parameters that make no request, or a load that lacks its times.
    """
    made: tuple[Request, ...] = registry.workload(spec.file).requests(spec, vocabulary)
    if not made:
        raise InputError(f"workload {spec.name} gave no request: raise num_prompts or loosen its limits")
    made = tuple(_asked(request, spec, number) for number, request in enumerate(made))
    due = _due_times(made, load, spec.seed)
    chosen = _verified(made, num_verify, random.Random(f"verify:{spec.seed}"))
    faster = load.time_scale if load.time_scale > 0 else 1.0
    timed = tuple(
        msgspec.structs.replace(r, due_at_s=due[i], logprobs=i in chosen, think_s=r.think_s / faster)
        for i, r in enumerate(made)
    )
    return timed, describe(spec, load, timed)


def _verified(made: Sequence[Request], num: int, draw: random.Random) -> frozenset[int]:
    """Indexes of the requests to verify. Of conversations whole ones, at least `num` requests: what a turn's
    prompt carries of earlier answers is known only where those are kept too."""
    if not any(r.session for r in made):
        return frozenset(draw.sample(range(len(made)), min(num, len(made))))
    sessions: dict[str, list[int]] = {}
    for index, request in enumerate(made):
        sessions.setdefault(request.session or request.request_id, []).append(index)
    order, chosen = list(sessions.values()), list[int]()
    draw.shuffle(order)
    while order and len(chosen) < num:
        chosen += order.pop()
    return frozenset(chosen)


def _asked(request: Request, spec: WorkloadSpec, number: int) -> Request:
    """As the workload's sampling and ends have it: of a given seed each request gets one of its own."""
    sampling = spec.sampling
    if sampling and sampling.seed is not None:
        sampling = msgspec.structs.replace(sampling, seed=sampling.seed + number)
    if sampling is None and spec.ignore_eos:
        return request
    return msgspec.structs.replace(request, sampling=sampling, ignore_eos=spec.ignore_eos)


def worded(requests: tuple[Request, ...], how: Prompts, vocabulary: Vocabulary) -> tuple[Request, ...]:
    """Prompts of token ids as text (how="text") or one user message ("chat"); "ids" leaves them as they are.

    Text keeps our count of its tokens, to hold the usage against; a chat template adds tokens of its own.
    """
    return requests if how == "ids" else tuple(_worded(r, how, vocabulary) for r in requests)


def _worded(request: Request, how: Prompts, vocabulary: Vocabulary) -> Request:
    ids = request.prompt_token_ids
    if ids is None:
        return request
    text = vocabulary.decode(ids)
    if how == "text":
        return msgspec.structs.replace(request, prompt_token_ids=None, prompt=text, prompt_len=len(ids))
    message = {"role": "user", "content": text}
    return msgspec.structs.replace(request, prompt_token_ids=None, messages=(message,))


def describe(spec: WorkloadSpec, load: Load, requests: tuple[Request, ...]) -> Workload:
    """workload.json of these requests."""
    return Workload(
        spec=spec,
        load=load,
        num_requests=len(requests),
        sha256=sha256(requests),
        input_len_total=sum(len(r.prompt_token_ids or ()) for r in requests),
        output_len_total=sum(r.max_tokens for r in requests),
    )


def sha256(requests: tuple[Request, ...]) -> str:
    """Hash over prompt (ids, text or messages), max_tokens, due time (ns) and session of each, in order.

    Also over how tokens are chosen, where that is not greedy, whether outputs may end by themselves, and what
    a request waits for.
    """
    digest = hashlib.sha256()
    for r in requests:
        prompt = r.prompt_token_ids if r.prompt_token_ids is not None else r.messages or r.prompt
        chosen = () if r.sampling is None and r.ignore_eos else (r.sampling, r.ignore_eos)
        waits = (r.after, r.think_s) if r.after or r.think_s else ()
        due_ns = round(r.due_at_s * 1e9)
        digest.update(_encode((prompt, r.max_tokens, due_ns, r.session, *chosen, *waits)))
        digest.update(b"\n")
    return digest.hexdigest()


def _due_times(made: tuple[Request, ...], load: Load, seed: int) -> tuple[float, ...]:
    if load.search and not load.request_rate:
        load = msgspec.structs.replace(load, request_rate=1.0)  # a search sets its rates as it goes
    if load.arrival != "trace":
        return pacing.due_times(load, len(made), seed)
    if load.time_scale <= 0:
        raise InputError(f"time_scale={load.time_scale:g} must be above 0: 2 replays twice as fast")
    if not any(r.due_at_s for r in made[1:]):
        raise InputError("arrival=trace needs a workload that has times of its own, such as trace")
    return tuple(r.due_at_s / load.time_scale for r in made)
