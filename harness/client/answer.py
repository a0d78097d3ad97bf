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


class Alternative(msgspec.Struct, gc=False):
    """One entry of top_logprobs (chat shape)."""

    token: str | None = None
    logprob: float | None = None
    id: int | None = None


class TokenLogprob(msgspec.Struct, gc=False):
    """One entry of logprobs.content (chat shape)."""

    logprob: float | None = None
    id: int | None = None
    token: str | None = None
    top_logprobs: list[Alternative] | None = None


class Logprobs(msgspec.Struct, gc=False):
    """Logprobs of the emitted tokens in either shape."""

    token_logprobs: list[float | None] | None = None
    tokens: list[str | None] | None = None
    top_logprobs: list[dict[str, float | None] | None] | None = None
    content: list[TokenLogprob] | None = None


class Delta(msgspec.Struct, gc=False):
    """Chat delta or message."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: Any = None


class Choice(msgspec.Struct, gc=False):
    """One choice of a chunk."""

    text: str | None = None
    delta: Delta | None = None
    message: Delta | None = None
    token_ids: list[int] | None = None
    logprobs: Logprobs | None = None
    finish_reason: str | None = None


class PromptDetails(msgspec.Struct, gc=False):
    """usage.prompt_tokens_details."""

    cached_tokens: int | None = None


class Usage(msgspec.Struct, gc=False):
    """Token counts as the engine states them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None


class Speculation(msgspec.Struct, gc=False):
    """vLLM's metrics.speculative_decoding of one request."""

    num_draft_tokens: int = 0
    num_accepted_draft_tokens: int = 0


class RequestMetrics(msgspec.Struct, gc=False):
    """vLLM's metrics of one request, beside its usage."""

    speculative_decoding: Speculation | None = None


class Timings(msgspec.Struct, gc=False):
    """llama.cpp's timings of one request."""

    draft_n: int = 0
    draft_n_accepted: int = 0


class Chunk(msgspec.Struct, gc=False):
    """One streamed event, or a whole answer; fields this client has no use for are skipped."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    metrics: RequestMetrics | None = None
    timings: Timings | None = None
    error: Any = None
    object: str | None = None
    message: Any = None


decode_plainly = msgspec.json.Decoder(Chunk).decode
"""One chunk of strict JSON. Raises msgspec.DecodeError, UnicodeDecodeError."""


class NotAChunk(ValueError):
    """The event is not JSON, or not a completion chunk."""


def decode(data: bytes) -> Chunk:
    """One chunk. NaN and Infinity, which some engines write, are taken as Python's json does.

    Raises NotAChunk.
    """
    try:
        return decode_plainly(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as strict:
        try:
            return msgspec.convert(json.loads(data), Chunk)
        except (ValueError, msgspec.ValidationError, RecursionError):
            shown = data[:120].decode("utf-8", "replace")
            raise NotAChunk(f"not a completion chunk ({strict}): {shown!r}") from None


class Answer:
    """Everything one request got back, filled chunk by chunk with the arrival stamp of each."""

    __slots__ = (
        "accepted_len",
        "cached_len",
        "content_ns",
        "drafted_len",
        "engine_error",
        "finish_reason",
        "gaps",
        "ids",
        "input_len",
        "logprobs",
        "output_len",
        "runs",
        "saw_done",
        "texts",
        "tokens",
        "top",
        "usage",
    )

    def __init__(self) -> None:
        self.content_ns: list[int] = []
        self.texts: list[str] = []
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.tokens: list[str | None] = []
        self.top: list[dict[str, float]] = []
        self.finish_reason = ""
        self.usage = False
        self.input_len = 0
        self.output_len = 0
        self.cached_len = 0
        self.runs: list[tuple[int, int]] = []
        self.gaps: list[tuple[int, str]] = []
        self.drafted_len = 0
        self.accepted_len = 0
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
        if chunk.error:
            self._take_error(msgspec.json.encode(chunk.error))
        elif chunk.object == "error":
            self._take_error(msgspec.json.encode(chunk.message))
        if chunk.usage is not None:
            self._take_usage(chunk.usage)
            self._take_drafts(chunk)
        elif chunk.timings is not None:
            self._take_drafts(chunk)
        content = False
        for choice in chunk.choices or ():
            content = self._take_choice(choice) or content
        if content:
            self.content_ns.append(stamp)

    def _take_choice(self, choice: Choice) -> bool:
        """True when it carries generated content."""
        content, num_ids = bool(choice.text), len(self.ids)
        if choice.text:
            self.texts.append(choice.text)
        if choice.token_ids:
            self._take_ids(choice.token_ids)
            content = True
        if choice.delta is not None or choice.message is not None:
            content = self._take_chat(choice) or content
        if choice.logprobs is not None:
            self._take_logprobs(choice.logprobs, with_ids=not choice.token_ids)
        if choice.text and num_ids and num_ids == len(self.ids):
            # A token without its id where others have theirs, as llama.cpp's drafted ones come.
            self.gaps.append((num_ids + len(self.gaps), choice.text))
        if choice.finish_reason:
            self._take_finish(choice.finish_reason)
        return content

    @property
    def ids_known(self) -> bool:
        """Every token that came has its id."""
        return bool(self.ids) and not self.gaps

    @property
    def named(self) -> list[str | None]:
        """Every token, by id where it is known, else by its text; without gaps, the texts that came."""
        if not self.gaps:
            return self.tokens
        names: list[str | None] = [f"token_id:{i}" for i in self.ids]
        for place, text in self.gaps:
            names.insert(place, text)
        return names

    def _take_ids(self, ids: list[int]) -> None:
        if len(ids) > 1:
            self.runs.append((len(self.ids), len(ids)))
        self.ids.extend(ids)

    def _take_chat(self, choice: Choice) -> bool:
        """True when the delta or message carries generated content."""
        content = False
        for delta in (choice.delta, choice.message):
            if delta is not None:
                content = self._take_delta(delta) or content
        return content

    def _take_finish(self, reason: str) -> None:
        self.finish_reason = reason
        if reason in ("error", "abort"):
            self.engine_error = self.engine_error or f"finish_reason {reason}"

    def _take_delta(self, delta: Delta) -> bool:
        content = False
        for text in (delta.reasoning_content or delta.reasoning, delta.content):
            if text:
                self.texts.append(text)
                content = True
        return content or bool(delta.tool_calls)

    def _take_logprobs(self, logprobs: Logprobs, *, with_ids: bool) -> None:
        values: list[float | None] = list(logprobs.token_logprobs or ())
        self.tokens.extend(logprobs.tokens or ())
        self.top.extend(_finite(row or {}) for row in logprobs.top_logprobs or ())
        for entry in logprobs.content or ():
            values.append(entry.logprob)
            self.tokens.append(entry.token)
            self.top.append(_finite({_name(a): a.logprob for a in entry.top_logprobs or ()}))
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

    def _take_drafts(self, chunk: Chunk) -> None:
        told = chunk.metrics.speculative_decoding if chunk.metrics else None
        if told is not None:
            self.drafted_len, self.accepted_len = told.num_draft_tokens, told.num_accepted_draft_tokens
        elif chunk.timings is not None:
            self.drafted_len, self.accepted_len = chunk.timings.draft_n, chunk.timings.draft_n_accepted

    def _take_error(self, body: bytes) -> None:
        self.engine_error = (
            body[:_TEXT_LIMIT].decode("utf-8", "replace").strip() or "an error event without words"
        )


def _name(alternative: Alternative) -> str:
    """What an alternative is called in a record."""
    return f"token_id:{alternative.id}" if alternative.id is not None else alternative.token or ""


def _finite(row: dict[str, float | None]) -> dict[str, float]:
    """The alternatives whose logprob is a number."""
    return {name: value for name, value in row.items() if value is not None and math.isfinite(value)}
