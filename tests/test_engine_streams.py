"""Streams that real engines sent (vLLM 0.32, SGLang 0.5.23, llama.cpp; CPU), read as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.streams import CLOSING_HEAD, chunked, outcome, parse

FOLDER = Path(__file__).parent / "golden" / "streams"
ENGINES = ("vllm", "sglang", "llamacpp")


def read(name: str) -> tuple[dict[str, object], dict[str, object]]:
    """The stream over a closing connection, and in HTTP chunks of one event each."""
    body = (FOLDER / f"{name}.txt").read_bytes()
    pieces = [piece + b"\n\n" for piece in body.split(b"\n\n") if piece]
    in_chunks = [chunked(pieces)[i : i + 400] for i in range(0, len(chunked(pieces)), 400)]
    return (
        outcome(parse([CLOSING_HEAD + body], closed=True)),
        outcome(parse(in_chunks, batched=True)),
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_completions(engine: str) -> None:
    whole, batched = read(f"{engine}_completions")
    assert whole == batched
    assert whole["error_kind"] == "" and whole["finish"] == "length" and whole["num_content"] == 16
    usage = whole["usage"]
    assert isinstance(usage, tuple) and usage[:3] == (True, 10, 16)
    ids = whole["ids"]
    assert isinstance(ids, list) and len(ids) == (0 if engine == "llamacpp" else 16)


@pytest.mark.parametrize("engine", ENGINES)
def test_logprobs_come_with_ids(engine: str) -> None:
    whole, batched = read(f"{engine}_completions_logprobs")
    ids, logprobs = whole["ids"], whole["logprobs"]
    assert whole == batched and isinstance(ids, list) and isinstance(logprobs, list)
    assert len(ids) == len(logprobs) == 16 and all(-20 < value <= 0 for value in logprobs)


@pytest.mark.parametrize("engine", ENGINES)
def test_chat_role_chunk_is_not_content(engine: str) -> None:
    whole, batched = read(f"{engine}_chat")
    assert whole == batched and whole["num_content"] == 8 and whole["error_kind"] == "" and whole["text"]
