"""A small real completions server whose flaws can be chosen.

The "model" says token (last + 1) mod 1000 after each token; the text of token n is " n".
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tests.answering import Answering, listening


class Flaws(NamedTuple):
    """Promises it breaks; none by default."""

    text_only: bool = False
    adds_bos: bool = False
    stops_early: bool = False
    no_usage: bool = False
    no_ids: bool = False
    no_logprobs: bool = False
    tokens_per_chunk: int = 1
    stream_differs: bool = False
    unstable: bool = False
    no_done: bool = False
    ignores_stop: bool = False
    accepts_anything: bool = False
    dies_of_bad_requests: bool = False
    token_s: float = 0.0
    """No flaw: seconds that each output token takes."""
    prefill_s: float = 0.0
    """No flaw: seconds that a prompt takes of which nothing is known."""
    prefix_cache: bool = False
    """No flaw: what a prompt has in common with an earlier one is not computed again."""
    response_cache: bool = False


@contextmanager
def serving(flaws: Flaws = Flaws()) -> Iterator[str]:  # noqa: B008 (frozen)
    """Base URL of a running server with these flaws."""
    state = {"served": 0, "dead": False}
    known: list[tuple[object, ...]] = []

    class Handler(Answering):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            fields = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, answer = _answer(fields, flaws, state)
            time.sleep(_takes(fields, flaws, known))
            stream = status == 200 and fields.get("stream")
            data = _events(answer, fields, flaws) if stream else json.dumps(answer).encode()
            self.write(status, data, "text/event-stream" if stream else "application/json")

    with listening(Handler) as url:
        yield url


def _takes(fields: dict[str, Any], flaws: Flaws, known: list[tuple[object, ...]]) -> float:
    """Seconds until the answer."""
    prompt = tuple(fields["prompt"])
    if flaws.response_cache and prompt in known:
        return 0.0
    alike = max((_common(prompt, other) for other in known), default=0) if flaws.prefix_cache else 0
    known.append(prompt)
    return flaws.prefill_s * (1 - alike / len(prompt)) + flaws.token_s * max(fields["max_tokens"], 0)


def _common(one: tuple[object, ...], other: tuple[object, ...]) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def _bad(fields: dict[str, Any]) -> bool:
    ids = fields["prompt"] if isinstance(fields["prompt"], list) else []
    return (
        fields["max_tokens"] < 1
        or not isinstance(fields.get("temperature", 0), int | float)
        or any(i >= 1000 for i in ids)
    )


def _answer(fields: dict[str, Any], flaws: Flaws, state: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    if _bad(fields) and not flaws.accepts_anything:
        state["dead"] = flaws.dies_of_bad_requests
        return 400, {"error": {"message": "bad parameter"}}
    if state["dead"]:
        return 500, {"error": {"message": "engine is dead"}}
    if flaws.text_only and isinstance(fields["prompt"], list):
        return 400, {"error": {"message": "prompt must be a string"}}
    state["served"] += 1
    ids = fields["prompt"] if isinstance(fields["prompt"], list) else [1, 2]
    num = 5 if flaws.stops_early else max(fields["max_tokens"], 1)
    shift = state["served"] if flaws.unstable else 7 if flaws.stream_differs and fields.get("stream") else 0
    tokens = [(ids[-1] + 1 + i + shift) % 1000 for i in range(num)]
    return 200, _completion(tokens, fields, flaws, len(ids) + flaws.adds_bos)


def _completion(tokens: list[int], fields: dict[str, Any], flaws: Flaws, prompt_len: int) -> dict[str, Any]:
    text = "".join(f" {t}" for t in tokens)
    finish = "length"
    for stop in () if flaws.ignores_stop else fields.get("stop") or ():
        if stop in text:
            text, finish = text[: text.index(stop)], "stop"
    choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": finish}
    if not flaws.no_ids:
        choice["token_ids"] = tokens
    if fields.get("logprobs") and not flaws.no_logprobs:
        choice["logprobs"] = {"token_logprobs": [-0.5] * len(tokens)}
    usage = {"prompt_tokens": prompt_len, "completion_tokens": len(tokens)}
    return {"object": "text_completion", "choices": [choice], "usage": usage}


def _events(answer: dict[str, Any], fields: dict[str, Any], flaws: Flaws) -> bytes:
    (choice,) = answer["choices"]
    words = choice["text"].split(" ")[1:]
    chunks = []
    for start in range(0, len(words), flaws.tokens_per_chunk):
        end = start + flaws.tokens_per_chunk
        part = {"index": 0, "text": "".join(f" {w}" for w in words[start:end]), "finish_reason": None}
        if "token_ids" in choice:
            part["token_ids"] = choice["token_ids"][start:end]
        if "logprobs" in choice:
            part["logprobs"] = {"token_logprobs": choice["logprobs"]["token_logprobs"][start:end]}
        chunks.append({**answer, "choices": [part], "usage": None})
    chunks[-1]["choices"][0]["finish_reason"] = choice["finish_reason"]
    if not flaws.no_usage and (fields.get("stream_options") or {}).get("include_usage"):
        chunks.append({**answer, "choices": []})
    lines = [f"data: {json.dumps(c)}\n\n" for c in chunks]
    return "".join([*lines, "" if flaws.no_done else "data: [DONE]\n\n"]).encode()
