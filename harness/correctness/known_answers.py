"""Questions whose answers are known: the smoke test of the documents, and fingerprints of greedy text.

A smoke test proves little (an idle broken server passes it), but a wrong fingerprint of a model whose greedy
continuations are recorded is proof. Fingerprints stand beside the weights as known_answers.json.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from harness import client
from harness.client.body import Target
from harness.errors import ModelError
from harness.schema import Load, Model, Noun, Request, RequestRecord

FILE = "known_answers.json"
NUM_TOKENS = 64
"""Room for an answer in a sentence."""


class KnownAnswer(Noun):
    """A prompt and what a healthy engine says to it, greedily."""

    prompt: str = ""
    """Text, for questions put to any model ..."""
    prompt_token_ids: tuple[int, ...] = ()
    """... or ids, for fingerprints of one model."""
    pattern: str = ""
    """Regular expression that must be found in the answer."""
    output_token_ids: tuple[int, ...] = ()
    """Or the exact continuation; margins between its tokens and the runners-up are far from ties."""


class KnownResult(Noun):
    """One answer against what it should be."""

    question: str
    held: bool | None
    """None = cannot be compared: the endpoint gave no token ids."""
    found: str


SMOKE = (KnownAnswer(prompt="What is 2+2?", pattern=r"(?i)\b(4|four)\b"),)
"""For models that can answer; a tiny model cannot."""
ANSWERS_FROM_B = 1.0
"""Billions of parameters from which a published model answers the smoke test."""


def load(model_path: str | Path) -> tuple[KnownAnswer, ...]:
    """The model's own fingerprints, () when it has none. Raises ModelError for a file that does not parse."""
    path = Path(model_path) / FILE
    if not path.exists():
        return ()
    try:
        return msgspec.json.decode(path.read_bytes(), type=tuple[KnownAnswer, ...])
    except msgspec.MsgspecError as error:
        raise ModelError(f"{path} is damaged ({error}); restore it or remove it") from error


AT_ONCE = 4
"""Questions in flight: the answers are sure enough to be the same in a batch."""


def of(model: Model) -> tuple[KnownAnswer, ...]:
    """The model's fingerprints; the smoke test for a published model that is large enough; else ()."""
    found = load(model.path) if model.path else ()
    return found or (SMOKE if model.hf_id and model.num_params_b >= ANSWERS_FROM_B else ())


def ask(
    target: Target, answers: Sequence[KnownAnswer], num_tokens: int = NUM_TOKENS
) -> tuple[KnownResult, ...]:
    """Put all questions to the endpoint, a few at a time, greedily."""
    requests = [_request(i, a, num_tokens) for i, a in enumerate(answers)]
    records: dict[str, RequestRecord] = {}
    client.fire(
        target, requests, Load(max_concurrency=AT_ONCE), lambda r: records.__setitem__(r.request_id, r)
    )
    return tuple(judged(a, records[q.request_id]) for a, q in zip(answers, requests, strict=True))


def fingerprints(
    prompts: Sequence[tuple[int, ...]], records: Sequence[RequestRecord], margins: Sequence[Sequence[float]]
) -> tuple[KnownAnswer, ...]:
    """Known answers from the reference's own output, cut before the first token whose runner-up is near.

    `margins`: per token, the reference's logprob lead over its second choice, nats.
    """
    found = []
    for prompt, record, lead in zip(prompts, records, margins, strict=True):
        sure = next((i for i, m in enumerate(lead) if m < SURE_NATS), len(lead))
        if sure >= MIN_SURE_TOKENS and record.output_token_ids:
            found.append(
                KnownAnswer(prompt_token_ids=prompt, output_token_ids=record.output_token_ids[:sure])
            )
    return tuple(found)


SURE_NATS = 0.75
"""Far above the noise of any healthy dtype, so that a fingerprint is exact for all of them."""
MIN_SURE_TOKENS = 4


def _request(number: int, answer: KnownAnswer, num_tokens: int) -> Request:
    return Request(
        request_id=f"known-{number}",
        prompt=answer.prompt or None,
        prompt_token_ids=answer.prompt_token_ids or None,
        max_tokens=len(answer.output_token_ids) or num_tokens,
        ignore_eos=bool(answer.output_token_ids),
    )


def judged(answer: KnownAnswer, record: RequestRecord) -> KnownResult:
    """Whether a record is the known answer."""
    question = answer.prompt or f"{len(answer.prompt_token_ids)} ids {answer.prompt_token_ids[:4]}..."
    if record.error:
        return KnownResult(question=question, held=False, found=record.error)
    if answer.output_token_ids and not record.output_token_ids:
        return KnownResult(question=question, held=None, found="no token ids")
    if answer.output_token_ids:
        held = (record.output_token_ids or ())[: len(answer.output_token_ids)] == answer.output_token_ids
        return KnownResult(question=question, held=held, found=f"ids {record.output_token_ids}")
    return KnownResult(
        question=question, held=bool(re.search(answer.pattern, record.text)), found=record.text
    )
