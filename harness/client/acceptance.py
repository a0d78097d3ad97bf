"""What a server takes of a request: it is asked before anything is measured, what it refuses is left out.

Strict servers (pydantic's extra="forbid": TensorRT-LLM, NIM, vendors' gateways) answer HTTP 400 or 422 to a
field they do not know, and name it. Nothing is left out silently: each change is a note of the rows.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
import requests

from harness.client.body import Target, authorization, body, path, url_parts
from harness.schema import Noun, Request

ASK_S = 120.0
PROMPT_IDS = tuple(range(100, 117))
"""17 ids that every vocabulary has."""
ESSENTIAL = frozenset({"model", "prompt", "messages", "max_tokens", "stream"})
"""Without these a request is another request."""
REFUSALS = (400, 422)

CONSEQUENCES = {
    "return_token_ids": "verified outputs are re-tokenised from their text",
    "stream_options": "the stream carries no usage: output is counted from its text",
    "ignore_eos": "outputs may end before max_tokens",
    "logprobs": "correctness is judged without the server's own log-probabilities",
    "top_logprobs": "the server's alternatives are not recorded",
    "seed": "sampled output does not repeat",
    "temperature": "the server samples as it likes, so outputs do not repeat",
}


class Acceptance(Noun):
    """What was found out about one server life."""

    without: tuple[str, ...] = ()
    """Body fields it refused by name, in the order it named them."""

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence per field that is left out, for the rows it concerns."""
        return tuple(
            f"the server refuses the request field {name}, so it was left out: "
            f"{CONSEQUENCES.get(name, 'what it asks for is not done')}"
            for name in self.without
        )


def ask(target: Target) -> Acceptance:
    """Send small requests until one is not refused for a field. Silence refuses nothing."""
    request = Request(
        request_id="acceptance", max_tokens=2, prompt_token_ids=PROMPT_IDS, ignore_eos=True, logprobs=True
    )
    found = Acceptance()
    while True:
        fields = msgspec.json.decode(body(request, applied(target, found)))
        refused = named(_refusal(request, target, fields), fields)
        if not refused:
            return found
        found = Acceptance(without=(*found.without, *refused))


def applied(target: Target, found: Acceptance) -> Target:
    """The target without the fields that its server refuses."""
    if not found.without:
        return target
    return msgspec.structs.replace(target, extras={**target.extras, **dict.fromkeys(found.without)})


def named(refusal: str, fields: dict[str, Any]) -> tuple[str, ...]:
    """The fields of a body that a refusal names and that a request can do without."""
    words = re.findall(r"\w+", refusal)
    return tuple(name for name in dict.fromkeys(words) if name in fields and name not in ESSENTIAL)


def _refusal(request: Request, target: Target, fields: dict[str, Any]) -> str:
    """What the server says against these fields; "" when it takes them, or says nothing."""
    where = url_parts(target)
    url = f"{where.scheme}://{where.netloc}{path(request, target)}"
    key = authorization(target.api_key_env)
    try:
        with requests.post(url, json=fields, headers=key, timeout=ASK_S, stream=True) as answer:
            return answer.text if answer.status_code in REFUSALS else ""
    except requests.RequestException:
        return ""
