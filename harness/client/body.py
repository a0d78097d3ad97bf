"""The bytes of a request: portable fields, an engine's own on top, HTTP head in front.

Requests of one session are a conversation: they go out in order, each carrying what was said before it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from time import monotonic
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec

from harness.client.answer import Answer
from harness.errors import InputError
from harness.schema import Load, Noun, Request, Sampler, Sampling

_encode = msgspec.json.Encoder().encode
PENALTIES = ("presence_penalty", "frequency_penalty", "repetition_penalty")
"""Sent, neutral, with greedy requests too: vLLM takes those of generation_config.json at temperature 0."""


class Target(Noun):
    """Where requests go and in which dialect."""

    base_url: str
    model: str
    api: str = "completions"
    """"completions" or "chat": for requests that hold plain text; ids and messages decide by themselves."""
    stream: bool = True
    timeout_s: float = 600.0
    """Longest a request may take, sent -> end of answer."""
    stall_s: float = 300.0
    """Longest silence while an answer is awaited."""
    ends_at_s: float = 0.0
    """On this machine's monotonic clock: when all that is still awaited has failed; 0 = never."""
    api_key_env: str = ""
    """Name of the environment variable that holds the API key; the key itself is never stored."""
    extras: dict[str, Any] = msgspec.field(default_factory=dict)
    """Body fields of one engine's dialect; a value of None takes a portable field out."""
    sampler: Sampler = Sampler()
    """How its sampler is asked."""
    num_workers: int = 1
    """Client processes; each drives its share of one schedule."""
    place: tuple[str, ...] = ()
    """Command that starts its tail once per client process, on whatever hosts: srun --ntasks=4 ..."""
    place_wait_s: float = 300.0
    """Longest that this command may take to start all of them, queues included, or to end when they have."""
    share_folder: str = ""
    """Folder that all client processes see: the job goes in, the shares come out."""


class Job(Noun):
    """What a client is asked to do."""

    target: Target
    load: Load
    requests: tuple[Request, ...]
    whole: bool = True
    """False: one process's share, cut already."""


def patience(target: Target, longest_s: float) -> float:
    """Seconds that a question of its own may take: the longest, or what is left until the target's end."""
    return min(longest_s, max(target.ends_at_s - monotonic(), 0.05)) if target.ends_at_s else longest_s


def url_parts(target: Target) -> SplitResult:
    """The parsed base URL. Raises InputError."""
    parts = urlsplit(target.base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            f"url={target.base_url!r} is not an address this client can call: give http://HOST:PORT"
        )
    return parts


def is_chat(request: Request, target: Target) -> bool:
    """Which endpoint: token ids go to completions, messages to chat, text as the target says."""
    if request.messages is not None:
        return True
    return request.prompt is not None and target.api == "chat"


def path(request: Request, target: Target) -> str:
    """URL path of the endpoint."""
    base = url_parts(target).path.rstrip("/")
    base = base if base.endswith("/v1") else f"{base}/v1"
    return f"{base}/chat/completions" if is_chat(request, target) else f"{base}/completions"


def body(request: Request, target: Target, history: Sequence[Any] = ()) -> bytes:
    """JSON body. `history` stands before the request's own messages (or token ids) in a conversation."""
    fields: dict[str, Any] = {"model": target.model}
    chat = is_chat(request, target)
    if request.messages is not None:
        fields["messages"] = (*history, *request.messages)
    elif request.prompt_token_ids is not None:
        fields["prompt"] = (*history, *request.prompt_token_ids) if history else request.prompt_token_ids
    elif chat:
        fields["messages"] = (*history, {"role": "user", "content": request.prompt})
    else:
        fields["prompt"] = "".join((*history, request.prompt or ""))
    fields |= {
        "max_tokens": request.max_tokens,
        **choice(request, target.sampler),
        "stream": target.stream,
        "ignore_eos": request.ignore_eos,
        "return_token_ids": True,
    }
    if target.stream:
        fields["stream_options"] = {"include_usage": True}
    if request.logprobs:
        fields["logprobs"] = True if chat else max(1, request.top_logprobs)
        if chat and request.top_logprobs:
            fields["top_logprobs"] = request.top_logprobs
    fields |= target.extras
    return _encode({name: value for name, value in fields.items() if value is not None})


def choice(request: Request, sampler: Sampler) -> dict[str, Any]:
    """The fields that say how tokens are chosen, in the dialect of an engine's sampler."""
    asked = request.sampling
    if asked is None:
        neutral = {sampler.fields.get(name, name): getattr(Sampling(), name) for name in PENALTIES}
        return {"temperature": request.temperature, "seed": request.seed, **neutral}
    fields: dict[str, Any] = {name: getattr(asked, name) for name in asked.__struct_fields__}
    fields["top_k"] = asked.top_k or sampler.every_token
    return {sampler.fields.get(name, name): value for name, value in fields.items()} | sampler.extras


def payload(request: Request, target: Target, history: Sequence[Any] = ()) -> bytes:
    """The whole HTTP request. Raises InputError when the API key's variable is not set."""
    content = body(request, target, history)
    head = (
        f"POST {path(request, target)} HTTP/1.1\r\nHost: {url_parts(target).netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        f"Accept: {'text/event-stream' if target.stream else 'application/json'}\r\n"
        f"{_authorization(target)}x-request-id: {_header_safe(request.request_id)}\r\n\r\n"
    )
    return head.encode("latin-1") + content


def _authorization(target: Target) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in authorization(target.api_key_env).items())


def authorization(api_key_env: str) -> dict[str, str]:
    """The header with the API key that a variable holds; {} for no variable. Raises InputError."""
    if not api_key_env:
        return {}
    key = os.environ.get(api_key_env, "")
    if not key or not key.isprintable() or not key.isascii():
        raise InputError(
            f"environment variable {api_key_env} holds no usable API key: export it and try again"
        )
    return {"Authorization": f"Bearer {key}"}


def _header_safe(text: str) -> str:
    return "".join(c if c.isascii() and c.isprintable() else "_" for c in text)


def addition(request: Request, answer: Answer) -> list[Any]:
    """What this turn adds to its conversation: messages, token ids, or text pieces."""
    text = "".join(answer.texts)
    if request.messages is not None:
        return [*request.messages, {"role": "assistant", "content": text}]
    if request.prompt_token_ids is not None:
        return [*request.prompt_token_ids, *answer.ids]
    return [request.prompt or "", text]


def check_prompt(request: Request) -> None:
    """Raises InputError unless the request holds exactly one kind of prompt."""
    kinds = (request.prompt_token_ids, request.prompt, request.messages)
    if sum(kind is not None for kind in kinds) != 1:
        raise InputError(
            f"request {request.request_id} must hold exactly one of prompt_token_ids, prompt, messages: "
            "correct the workload that made it"
        )
