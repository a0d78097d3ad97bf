"""From a request and its record to what a reference can score; outputs without ids are made ids again.

An engine that gives no ids may still give each token's text beside its logprob. Where one id alone reads like
that, the ids are known exactly. Otherwise the whole text is tokenised again, which may cut it into other
tokens than the engine emitted, and a reference finds the other cut unlikely: such samples are flagged, and
agreement never fails them on their margins alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.correctness.replay import Sample
from harness.errors import ModelError
from harness.schema import Request, RequestRecord
from harness.tokens import Vocabulary

TOKEN_ID = "token_id:"
"""Prefix of tokens that vLLM names by number when it is asked to (return_tokens_as_token_ids)."""


class _Unknown(Exception):
    """The ids cannot be known; the message says why."""


def sample(request: Request, record: RequestRecord, vocabulary: Vocabulary) -> Sample:
    """What to replay; its `problem` says why not, where the ids cannot be known."""
    try:
        prompt = _prompt_ids(request, record, vocabulary)
        named = _whole(record) or _ids_of_tokens(record, vocabulary)
        ids = named or _output_ids(record.text, vocabulary)
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
        emitted_top=_top(record, vocabulary) if len(record.top_logprobs or ()) == len(ids) else (),
        retokenised=not named,
        sampling=request.sampling,
        ended=None if request.ignore_eos else record.finish_reason == "stop",
    )


def _whole(record: RequestRecord) -> tuple[int, ...]:
    """The engine's own ids: none of those that it counts may be missing.

    llama.cpp leaves out those that end inside a character: what stands behind would be judged under another
    context than the engine's.
    """
    ids = record.output_token_ids or ()
    missing = record.output_len - len(ids) if ids and record.usage else 0
    if missing > 0:
        raise _Unknown(f"the engine gave {len(ids)} ids for {record.output_len} tokens")
    return ids


def _prompt_ids(request: Request, record: RequestRecord, vocabulary: Vocabulary) -> tuple[int, ...]:
    """The prompt as the engine read it; a text prompt counts only when the engine's own count agrees."""
    if request.prompt_token_ids is not None:
        if record.prompt_len not in (0, len(request.prompt_token_ids)):
            raise _Unknown("what its conversation said before is not all kept, so its prompt is not known")
        return request.prompt_token_ids
    if request.prompt is None:
        raise _Unknown("its prompt went through the engine's chat template, so its ids are not known")
    ids = vocabulary.encode(request.prompt)
    if record.input_len and record.input_len != len(ids):
        raise _Unknown(f"its prompt is {len(ids)} tokens here and {record.input_len} in the engine")
    return ids


def _ids_of_tokens(record: RequestRecord, vocabulary: Vocabulary) -> tuple[int, ...]:
    """The ids by the text of each token; () when they were not all given, or several ids read like one."""
    if not record.output_tokens or len(record.output_tokens) != record.output_len:
        return ()
    found = tuple(id_named(token, vocabulary.ids_by_text) for token in record.output_tokens)
    return tuple(i for i in found if i is not None) if None not in found else ()


def id_named(name: str, ids_by_text: Mapping[str, int]) -> int | None:
    """The id an engine means by a token's text or by "token_id:N"; None when several read the same."""
    number = name.removeprefix(TOKEN_ID)
    return int(number) if number != name and number.isdigit() else ids_by_text.get(name)


def _top(record: RequestRecord, vocabulary: Vocabulary) -> tuple[dict[int, float], ...]:
    """Alternatives by id; those whose name is ambiguous are left out and so count as outside."""
    rows = record.top_logprobs or ()
    read = {name: id_named(name, vocabulary.ids_by_text) for row in rows for name in row}
    return tuple({i: value for name, value in row.items() if (i := read[name]) is not None} for row in rows)


def _output_ids(text: str, vocabulary: Vocabulary) -> tuple[int, ...]:
    ids = vocabulary.encode(text)
    if not ids or vocabulary.decode(ids) != text:
        raise _Unknown("its output came without token ids, and the text does not survive tokenisation")
    return ids
