"""From a request and its record to what a reference can score; outputs without ids are made ids again.

Text made into ids again may be cut into other tokens than the engine emitted, and a reference finds the other
cut unlikely: such samples are flagged, and agreement never fails them on their margins alone.
"""

from __future__ import annotations

from harness.correctness.replay import Sample
from harness.errors import ModelError
from harness.schema import Request, RequestRecord
from harness.tokens import Vocabulary


class _Unknown(Exception):
    """The ids cannot be known; the message says why."""


def sample(request: Request, record: RequestRecord, vocabulary: Vocabulary) -> Sample:
    """What to replay; its `problem` says why not, where the ids cannot be known."""
    try:
        prompt = _prompt_ids(request, record, vocabulary)
        ids = record.output_token_ids or _output_ids(record.text, vocabulary)
    except (_Unknown, ModelError) as problem:
        return Sample(
            request_id=record.request_id, prompt_token_ids=(), output_token_ids=(), problem=str(problem)
        )
    logprobs = record.output_logprobs
    return Sample(
        request_id=record.request_id,
        prompt_token_ids=prompt,
        output_token_ids=ids,
        emitted_logprobs=logprobs if logprobs and len(logprobs) == len(ids) else None,
        retokenised=not record.output_token_ids,
    )


def _prompt_ids(request: Request, record: RequestRecord, vocabulary: Vocabulary) -> tuple[int, ...]:
    """The prompt as the engine read it; a text prompt counts only when the engine's own count agrees."""
    if request.prompt_token_ids is not None:
        return request.prompt_token_ids
    if request.prompt is None:
        raise _Unknown("its prompt went through the engine's chat template, so its ids are not known")
    ids = vocabulary.encode(request.prompt)
    if record.input_len and record.input_len != len(ids):
        raise _Unknown(f"its prompt is {len(ids)} tokens here and {record.input_len} in the engine")
    return ids


def _output_ids(text: str, vocabulary: Vocabulary) -> tuple[int, ...]:
    ids = vocabulary.encode(text)
    if not ids or vocabulary.decode(ids) != text:
        raise _Unknown("its output came without token ids, and the text does not survive tokenisation")
    return ids
