"""Another endpoint of the same model as the reference (reference=http://...): what it gives decides the test.

Prompt logprobs (vLLM's field, SGLang's /generate) score the whole output in one pass, as a reference of our
own does. An endpoint with neither is asked the weaker test: for each of an output's first tokens, the
completion of one token behind prompt and output so far, with as many alternatives as it grants. One beyond
those counts as the least of them: a disagreement can only look smaller than it is. llama.cpp names none where
it would say the first part of a character: an output is judged up to there. The name says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product, takewhile
from typing import Any

import msgspec
import requests

from harness.client.acceptance import PROMPT_IDS
from harness.client.answer import Answer, Chunk
from harness.client.body import authorization
from harness.correctness import replay
from harness.correctness.replay import ReplayOptions, Sample
from harness.correctness.scoring_dialects import Dialect, Forced, Ids, dialects, entry
from harness.errors import AttestationError, HarnessError
from harness.schema import Score
from harness.tokens import Vocabulary

NUM_TOKENS = 16
"""First tokens of an output that the weaker test asks for: as many requests per sample."""
ALTERNATIVES = (20, 5, 1)
"""Numbers of alternatives tried, most first: endpoints grant different ones, OpenAI's completions 5."""
_ASK_S = 60.0
_ID = "token_id:"
_LOCKED = ("HTTP 401", "HTTP 403")
_UNNAMED = "the reference gave no alternatives whose tokens could be told"
_TRIED = 3
"""Prompts that an endpoint is tried with: its next token of one may be what it names no alternatives for."""


def score(
    base_url: str, model: str, samples: Sequence[Sample], options: ReplayOptions, vocabulary: Vocabulary
) -> list[Score]:
    """One Score per sample, in order, by the strongest test that the endpoint answers.

    Raises AttestationError when it answers none: it cannot be a reference.
    """
    if not samples:
        return []
    for dialect in (d for d in dialects() if not d.plays):
        if not _refusal(base_url, model, dialect, PROMPT_IDS, options):
            return replay.score(base_url, dialect, model, samples, options)
    refusal = ""
    prompts = [s.prompt_token_ids for s in samples if s.prompt_token_ids][:_TRIED] or [PROMPT_IDS]
    for number, prompt in product(ALTERNATIVES, prompts):
        weaker = next_token(number, vocabulary)
        refusal = _refusal(base_url, model, weaker, prompt, options)
        if not refusal:
            return _weaker(base_url, model, samples, (weaker, number), options)
    if refusal.startswith(_LOCKED):
        raise AttestationError(
            f"{base_url} cannot be a reference: it asks for an API key ({refusal[:200]}); export it in a "
            "variable and give reference_api_key_env=NAME_OF_THAT_VARIABLE."
        )
    raise AttestationError(
        f"{base_url} cannot be a reference: it gives neither prompt logprobs nor logprobs of a completion "
        f"({refusal[:200]}); take an endpoint that does, or reference=none."
    )


def _refusal(base_url: str, model: str, dialect: Dialect, prompt: Ids, options: ReplayOptions) -> str:
    """Why this dialect does not work there; "" when it does."""
    output = (PROMPT_IDS[0],)
    path, body = dialect.scoring(prompt, output, model, 1)
    key = authorization(options.api_key_env)
    try:
        answer = requests.post(base_url + path, json=body, headers=key, timeout=_ASK_S)
        if answer.status_code != requests.codes.ok:
            return f"HTTP {answer.status_code}: {answer.text}"
        if not dialect.scored(answer.json(), prompt, output).rank:
            return _UNNAMED
    except (
        requests.RequestException,
        ValueError,
        HarnessError,
        TypeError,
        KeyError,
        AttributeError,
    ) as error:
        return str(error) or type(error).__name__
    return ""


def next_token(number: int, vocabulary: Vocabulary) -> Dialect:
    """The weaker test's dialect: one token behind a prompt, with `number` alternatives."""

    def scoring(prompt_ids: Ids, output_ids: Ids, model: str, top_k: int) -> tuple[str, dict[str, Any]]:
        body = {
            "model": model,
            "prompt": [*prompt_ids],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": number,
        }
        return "/v1/completions", body

    def scored(response: dict[str, Any], prompt_ids: Ids, output_ids: Ids) -> Forced:
        return _read(response, output_ids[0], vocabulary)

    return Dialect(scoring, scored)


def _read(response: dict[str, Any], token: int, vocabulary: Vocabulary) -> Forced:
    """Where the token stands among the alternatives, nowhere where none is named. Raises AttestationError."""
    answer = Answer()
    try:
        answer.add(msgspec.convert(response, Chunk), 1)
    except msgspec.ValidationError as error:
        raise AttestationError(f"the reference's answer is no completion ({error})") from error
    known: dict[int, float] = {}
    for name, logprob in (answer.top[0] if answer.top else {}).items():
        given = int(name[len(_ID) :]) if name.startswith(_ID) else vocabulary.ids_by_text.get(name)
        if given is not None:
            known[given] = logprob
    if not known:
        return Forced((), (), ())
    best = max(known.values())
    own = known.get(token, min(known.values()))
    rank = 1 + sum(logprob > own for logprob in known.values()) + (token not in known)
    logprob, rank, margin = entry(own, best, rank)
    return Forced(logprob=(logprob,), rank=(rank if token in known else len(known) + 1,), margin=(margin,))


def _weaker(
    base_url: str, model: str, samples: Sequence[Sample], how: tuple[Dialect, int], options: ReplayOptions
) -> list[Score]:
    dialect, number = how
    told = f"{options.reference} (weaker test: first {NUM_TOKENS} tokens, {number} alternatives)"
    named = msgspec.structs.replace(options, reference=told, concurrency=1)
    short = [_shortened(sample) for sample in samples]

    def one(sample: Sample) -> Score:
        return _joined(sample, replay.score(base_url, dialect, model, _steps(sample), named), told)

    with ThreadPoolExecutor(max_workers=max(options.concurrency, 1)) as pool:
        return list(pool.map(one, short))


def _shortened(sample: Sample) -> Sample:
    emitted = sample.emitted_logprobs
    return msgspec.structs.replace(
        sample,
        output_token_ids=sample.output_token_ids[:NUM_TOKENS],
        emitted_logprobs=emitted[:NUM_TOKENS] if emitted else emitted,
        emitted_top=(),
        part=None,
    )


def _steps(sample: Sample) -> list[Sample]:
    """One sample per output token, its prompt everything before it."""
    ids = sample.output_token_ids
    if sample.problem or not ids:
        return [sample]
    return [
        msgspec.structs.replace(
            sample,
            prompt_token_ids=(*sample.prompt_token_ids, *ids[:i]),
            output_token_ids=(ids[i],),
            emitted_logprobs=None,
        )
        for i in range(len(ids))
    ]


def _joined(sample: Sample, steps: Sequence[Score], reference: str) -> Score:
    error = next((step.error for step in steps if step.error), "")
    if error:
        return replay.unscored([sample], error, reference)[0]
    told = [*takewhile(lambda step: step.rank, steps)]
    if not told:
        return replay.unscored([sample], _UNNAMED, reference)[0]
    emitted = sample.emitted_logprobs
    cut = msgspec.structs.replace(
        sample,
        output_token_ids=sample.output_token_ids[: len(told)],
        emitted_logprobs=emitted[: len(told)] if emitted else emitted,
    )
    return msgspec.structs.replace(
        replay.unscored([cut], "", reference)[0],
        logprob=tuple(step.logprob[0] for step in told),
        rank=tuple(step.rank[0] for step in told),
        margin=tuple(step.margin[0] for step in told),
    )
