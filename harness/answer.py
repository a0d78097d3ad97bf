"""What an engine answered: completion chunks (streamed or whole) read into one Answer.

Dialects met: vLLM, SGLang and TensorRT-LLM completions and chat, llama.cpp (whose completions carry
logprobs in the chat shape), transformers serve (no `[DONE]`), reasoning and tool-call deltas.
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

LOWEST_LOGPROB = -9999.0
"""Stands for -inf, which JSON cannot carry."""
_TEXT_LIMIT = 2000
_ABSENT = msgspec.Raw()
_NULL = (b"", b"null", b"[]", b"{}", b'""')


class TokenLogprob(msgspec.Struct):
    """One entry of logprobs.content (chat shape)."""

    logprob: float | None = None
    id: int | None = None


class Logprobs(msgspec.Struct):
    """Logprobs of the emitted tokens in either shape."""

    token_logprobs: list[float | None] | None = None
    content: list[TokenLogprob] | None = None


class Delta(msgspec.Struct):
    """Chat delta or message."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: msgspec.Raw = _ABSENT


class Choice(msgspec.Struct):
    """One choice of a chunk."""

    text: str | None = None
    delta: Delta | None = None
    message: Delta | None = None
    token_ids: list[int] | None = None
    logprobs: Logprobs | None = None
    finish_reason: str | None = None


class PromptDetails(msgspec.Struct):
    """usage.prompt_tokens_details."""

    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    """Token counts as the engine states them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None


class Chunk(msgspec.Struct):
    """One streamed event, or a whole answer; fields this client has no use for are skipped."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: msgspec.Raw = _ABSENT
    object: str | None = None
    message: msgspec.Raw = _ABSENT


_decode_chunk = msgspec.json.Decoder(Chunk).decode
decode_chunks = msgspec.json.Decoder(list[Chunk]).decode


class NotAChunk(ValueError):
    """The event is not JSON, or not a completion chunk."""


def decode(data: bytes) -> Chunk:
    """One chunk. NaN and Infinity, which some engines write, are taken as Python's json does.

    Raises NotAChunk.
    """
    try:
        return _decode_chunk(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as strict:
        try:
            return msgspec.convert(_with_raw(json.loads(data)), Chunk)
        except (ValueError, msgspec.ValidationError, RecursionError):
            shown = data[:120].decode("utf-8", "replace")
            raise NotAChunk(f"not a completion chunk ({strict}): {shown!r}") from None


def _with_raw(document: Any) -> Any:
    """Fields typed Raw are put back into bytes, as msgspec.convert wants them."""
    if not isinstance(document, dict):
        return document
    for name in ("error", "message"):
        if document.get(name) is not None:
            document[name] = msgspec.Raw(json.dumps(document[name]).encode())
    for choice in document.get("choices") or ():
        for part in ("delta", "message"):
            calls = (choice.get(part) or {}).get("tool_calls")
            if calls is not None:
                choice[part]["tool_calls"] = msgspec.Raw(json.dumps(calls).encode())
    return document


class Answer:
    """Everything one request got back, filled chunk by chunk with the arrival stamp of each."""

    __slots__ = (
        "cached_len",
        "content_ns",
        "engine_error",
        "finish_reason",
        "ids",
        "input_len",
        "logprobs",
        "output_len",
        "saw_done",
        "texts",
        "usage",
    )

    def __init__(self) -> None:
        self.content_ns: list[int] = []
        self.texts: list[str] = []
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.finish_reason = ""
        self.usage = False
        self.input_len = 0
        self.output_len = 0
        self.cached_len = 0
        self.engine_error = ""
        self.saw_done = False

    @property
    def ended(self) -> bool:
        """The engine said that this is all: a finish reason, [DONE], or an error."""
        return self.saw_done or bool(self.finish_reason) or bool(self.engine_error)

    def add_event(self, kind: bytes, data: bytes, stamp: int) -> None:
        """Take one server-sent event. Raises NotAChunk."""
        if data.strip() == b"[DONE]":
            self.saw_done = True
        elif kind == b"error":
            self._take_error(data)
        else:
            self.add(decode(data), stamp)

    def add(self, chunk: Chunk, stamp: int) -> None:
        """Take one chunk that arrived at `stamp` (ns)."""
        if bytes(chunk.error) not in _NULL:
            self._take_error(bytes(chunk.error))
        elif chunk.object == "error":
            self._take_error(bytes(chunk.message))
        if chunk.usage is not None:
            self._take_usage(chunk.usage)
        content = False
        for choice in chunk.choices or ():
            content = self._take_choice(choice) or content
        if content:
            self.content_ns.append(stamp)

    def _take_choice(self, choice: Choice) -> bool:
        """True when the choice carries generated content."""
        content = False
        if choice.text:
            self.texts.append(choice.text)
            content = True
        for delta in (choice.delta, choice.message):
            if delta is not None:
                content = self._take_delta(delta) or content
        if choice.token_ids:
            self.ids.extend(choice.token_ids)
            content = True
        if choice.logprobs is not None:
            self._take_logprobs(choice.logprobs, with_ids=not choice.token_ids)
        if choice.finish_reason:
            self.finish_reason = choice.finish_reason
            if choice.finish_reason in ("error", "abort"):
                self.engine_error = self.engine_error or f"finish_reason {choice.finish_reason}"
        return content

    def _take_delta(self, delta: Delta) -> bool:
        content = False
        for text in (delta.reasoning_content or delta.reasoning, delta.content):
            if text:
                self.texts.append(text)
                content = True
        return content or bytes(delta.tool_calls) not in _NULL

    def _take_logprobs(self, logprobs: Logprobs, *, with_ids: bool) -> None:
        values: list[float | None] = list(logprobs.token_logprobs or ())
        for entry in logprobs.content or ():
            values.append(entry.logprob)
            if with_ids and entry.id is not None:
                self.ids.append(entry.id)
        for value in values:
            if value is None:
                continue
            if math.isnan(value):
                self.engine_error = self.engine_error or "a logprob is NaN"
            self.logprobs.append(value if math.isfinite(value) else LOWEST_LOGPROB)

    def _take_usage(self, usage: Usage) -> None:
        if usage.prompt_tokens is None and usage.completion_tokens is None:
            return
        self.usage = True
        self.input_len = usage.prompt_tokens or 0
        self.output_len = usage.completion_tokens or 0
        if usage.prompt_tokens_details is not None:
            self.cached_len = usage.prompt_tokens_details.cached_tokens or 0

    def _take_error(self, body: bytes) -> None:
        self.engine_error = (
            body[:_TEXT_LIMIT].decode("utf-8", "replace").strip() or "an error event without words"
        )
