"""Streams to parse, and what must come out: shared by the parser tests and the fuzzer."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from harness.client.response import Response

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CLOSING_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def event(document: Any) -> bytes:
    """One event as every engine frames it."""
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


def token(text: str, *ids: int, finish: str | None = None) -> bytes:
    """One completion chunk."""
    choice = {"index": 0, "text": text, "finish_reason": finish, "token_ids": list(ids)}
    return event({"id": "c", "object": "text_completion", "choices": [choice]})


def usage(prompt: int, completion: int) -> bytes:
    """The usage-only last chunk."""
    counts = {"prompt_tokens": prompt, "completion_tokens": completion}
    return event({"id": "c", "choices": [], "usage": counts})


DONE = b"data: [DONE]\n\n"


def http_chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunked(events: Sequence[bytes], head: bytes = HEAD) -> bytes:
    """A whole answer, one HTTP chunk per piece, as uvicorn sends it."""
    return head + b"".join(http_chunk(e) for e in events) + b"0\r\n\r\n"


def parse(reads: Sequence[bytes], *, batched: bool = False, closed: bool = False) -> Response:
    """Feed reads (stamped 1, 2, ...) one by one or in one batch; then close when asked."""
    response = Response()
    stamps = list(range(1, len(reads) + 1))
    if batched:
        response.feed(reads, stamps)
    else:
        for data, stamp in zip(reads, stamps, strict=True):
            response.feed([data], [stamp])
    if closed:
        response.close(len(reads) + 1, "")
    return response


def outcome(response: Response) -> dict[str, Any]:
    """Everything a record would hold, times apart."""
    answer = response.answer
    return {
        "text": "".join(answer.texts),
        "ids": answer.ids,
        "logprobs": answer.logprobs,
        "finish": answer.finish_reason,
        "usage": (answer.usage, answer.input_len, answer.output_len, answer.cached_len),
        "num_content": len(answer.content_ns),
        "error_kind": response.error_kind,
        "error": response.error,
        "done": response.done,
    }


def stamps_of(response: Response) -> list[int]:
    """Number of the read that completed each content chunk."""
    return response.answer.content_ns


SPOKEN = [token("Hel", 1), token("lo", 2), token("", 3, finish="length"), usage(4, 3), DONE]


def _json(document: Any) -> bytes:
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


def _completions(text: str, id_: int, finish: str | None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish, **more}
    return {"id": "cmpl-b07b", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}


def _chat(text: str, id_: int, finish: str | None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {**more, "content": text}, "logprobs": None, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "choices": [choice]}


DIALECTS: dict[str, Callable[[str, int, str | None], dict[str, Any]]] = {
    "vllm": lambda text, id_, finish: _completions(
        text, id_, finish, stop_reason=None, prompt_token_ids=None, token_ids=[id_]
    ),
    "vllm chat": lambda text, id_, finish: _chat(text, id_, finish),
    "sglang": lambda text, id_, finish: _completions(text, id_, finish, matched_stop=None, token_ids=[id_]),
    "sglang chat": lambda text, id_, finish: _chat(text, id_, finish, reasoning_content=None),
    "trtllm": lambda text, id_, finish: _completions(
        text, id_, finish, context_logits=None, stop_reason=None, disaggregated_params=None
    ),
    "llamacpp": lambda text, id_, finish: {
        "choices": [{"text": text, "index": 0, "logprobs": None, "finish_reason": finish}],
        "created": 1,
        "model": "m",
        "object": "text_completion",
        "id": "chatcmpl-VOXd",
    },
}
"""Chunks as these engines write them: of a text, a token id and a finish reason."""


def spoken_by(engine: str, tokens: Sequence[tuple[str, int]]) -> list[bytes]:
    """Events of a whole answer in this dialect."""
    chunk = DIALECTS[engine]
    said = [_json(chunk(text, id_, None)) for text, id_ in tokens]
    return [*said, _json(chunk("", 0, "length")), usage(3, len(tokens)), DONE]
