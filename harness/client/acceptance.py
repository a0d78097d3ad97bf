"""What a server takes of a request: it is asked before anything is measured, what it refuses is left out.

Strict servers (pydantic's extra="forbid": TensorRT-LLM, NIM, vendors' gateways) answer HTTP 400 or 422 to a
field they do not know, and name it; many take no token ids, some have no /v1/completions. Nothing is left out
or changed silently: each change is a note of the rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
import requests

from harness.client.body import Target, authorization, body, path, patience, url_parts
from harness.schema import Noun, Prompts, Request, Sampling

ASK_S = 120.0
PROMPT_IDS = tuple(range(100, 117))
"""17 ids that every vocabulary has."""
TEXT = "A server is asked what it takes of a request before it is measured."
ESSENTIAL = frozenset({"model", "prompt", "messages", "max_tokens", "stream"})
"""Without these a request is another request."""
REFUSALS = (400, 422)
ELSEWHERE = (404, 405, 415, 500, 501)
"""Of a path or a kind of prompt that the server does not have; a busy one (429, 503) refuses nothing."""

CONSEQUENCES = {
    "return_token_ids": "verified outputs are re-tokenised from their text",
    "stream_options": "the stream carries no usage: output is counted from its text",
    "ignore_eos": "outputs may end before max_tokens",
    "logprobs": "correctness is judged without the server's own log-probabilities",
    "top_logprobs": "the server's alternatives are not recorded",
    "seed": "sampled output does not repeat",
    "temperature": "the server samples as it likes, so outputs do not repeat",
    **dict.fromkeys(
        ("top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"),
        "the server's own default of it holds",
    ),
}
_WORDS = {"ids": "token ids", "text": "text", "chat": "a chat message"}
_SHOWN = 160


class Acceptance(Noun):
    """What was found out about one server life."""

    prompts: Prompts = "ids"
    """How prompts are sent: the first way that it takes."""
    without: tuple[str, ...] = ()
    """Body fields it refused by name, in the order it named them."""
    refused: dict[str, str] = msgspec.field(default_factory=dict)
    """Way that it did not take -> what it said."""

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence per change, for the rows it concerns."""
        ways = [
            f"the server takes no {_WORDS[way]} ({said}), so prompts went as {_WORDS[self.prompts]}: their "
            "lengths are as the server counts them"
            for way, said in self.refused.items()
        ]
        fields = [
            f"the server refuses the request field {name}, so it was left out: "
            f"{CONSEQUENCES.get(name, 'what it asks for is not done')}"
            for name in self.without
        ]
        return (*ways, *fields)


def ask(target: Target, ways: Sequence[Prompts] = ("ids",), sampling: Sampling | None = None) -> Acceptance:
    """Send small requests until one is taken, by the first of `ways` that the server takes.

    `sampling`: asked for too, where a load of the run samples.
    Silence refuses nothing; of a server that takes no way the first is kept: its requests will say why.
    """
    refused: dict[str, str] = {}
    for way in ways:
        found, said = _fields(target, way, sampling)
        if not said:
            return msgspec.structs.replace(found, refused=refused)
        refused[way] = said
    return Acceptance(prompts=ways[0])


def applied(target: Target, found: Acceptance) -> Target:
    """The target without the fields that its server refuses."""
    if not found.without:
        return target
    return msgspec.structs.replace(target, extras={**target.extras, **dict.fromkeys(found.without)})


def named(refusal: str, fields: dict[str, Any]) -> tuple[str, ...]:
    """The fields of a body that a refusal names and that a request can do without."""
    words = re.findall(r"\w+", refusal)
    return tuple(name for name in dict.fromkeys(words) if name in fields and name not in ESSENTIAL)


def asked(request: Request, ids: tuple[int, ...], way: Prompts) -> Request:
    """The request with a prompt: these ids, or a sentence that is as different from others as they are."""
    if way == "ids":
        return msgspec.structs.replace(request, prompt_token_ids=ids)
    text = f"{TEXT} Its numbers are {', '.join(map(str, ids))}."
    if way == "text":
        return msgspec.structs.replace(request, prompt=text)
    return msgspec.structs.replace(request, messages=({"role": "user", "content": text},))


def _fields(target: Target, way: Prompts, sampling: Sampling | None) -> tuple[Acceptance, str]:
    """(the fields to leave out for this way, "") or what the server says against the way itself."""
    plain = Request(request_id="acceptance", max_tokens=2, ignore_eos=True, sampling=sampling, logprobs=True)
    request, found = asked(plain, PROMPT_IDS, way), Acceptance(prompts=way)
    while True:
        fields = msgspec.json.decode(body(request, applied(target, found)))
        status, said = _answer(request, target, fields)
        refused = named(said, fields) if status in REFUSALS else ()
        if not refused:
            against = f"HTTP {status}: {said[:_SHOWN]}" if status in (*REFUSALS, *ELSEWHERE) else ""
            return found, " ".join(against.split())
        found = msgspec.structs.replace(found, without=(*found.without, *refused))


def _answer(request: Request, target: Target, fields: dict[str, Any]) -> tuple[int, str]:
    """(HTTP status, what the server says where it is no 200); (0, "") of silence."""
    where = url_parts(target)
    url = f"{where.scheme}://{where.netloc}{path(request, target)}"
    key = authorization(target.api_key_env)
    try:
        wait_s = patience(target, ASK_S)
        with requests.post(url, json=fields, headers=key, timeout=wait_s, stream=True) as answer:
            return answer.status_code, "" if answer.status_code == requests.codes.ok else answer.text
    except requests.RequestException:
        return 0, ""
