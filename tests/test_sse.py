"""Framing: whatever the cut, the line ends and the chatter, the same record comes out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.client.wire import EventParser
from tests import streams
from tests.streams import DONE, SPOKEN, chunked, event, http_chunk, outcome, parse, token, usage

PLAIN = b"".join(SPOKEN)
CHAT = [
    event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}),
    event({"choices": [{"index": 0, "delta": {"content": "Hi"}}]}),
    event({"choices": [{"index": 0, "delta": {"content": " you"}, "finish_reason": "stop"}]}),
    usage(3, 2),
    DONE,
]


def choices(**fields: Any) -> bytes:
    """A chunk with one choice of these fields."""
    return event({"choices": [{"index": 0, **fields}]})


def case(name: str, pieces: list[bytes], **expected: Any) -> Any:
    return pytest.param(pieces, expected, id=name)


FRAMINGS = [
    case("one event a chunk", SPOKEN),
    case("all events in one chunk", [PLAIN]),
    case("an event over two chunks", [PLAIN[:40], PLAIN[40:]]),
    case("CRLF", [e.replace(b"\n", b"\r\n") for e in SPOKEN]),
    case("CR", [e.replace(b"\n", b"\r") for e in SPOKEN]),
    case(
        "mixed line ends", [SPOKEN[0].replace(b"\n", b"\r\n"), SPOKEN[1].replace(b"\n", b"\r"), *SPOKEN[2:]]
    ),
    case("byte-order mark", [b"\xef\xbb\xbf" + SPOKEN[0], *SPOKEN[1:]]),
    case("comment before", [b": ping - 2026-11-20\n\n", *SPOKEN]),
    case("keep-alives between", [SPOKEN[0], b":\n\n", b": keep-alive\r\n\r\n", *SPOKEN[1:]]),
    case("no space after data:", [e.replace(b"data: ", b"data:") for e in SPOKEN]),
    case("event, id and retry fields", [b"event: message\nid: 7\nretry: 100\n" + e for e in SPOKEN]),
    case("field without colon", [b"data\n" + SPOKEN[0], *SPOKEN[1:]]),
    case(
        "data over several lines",
        [SPOKEN[0].replace(b', "choices"', b'\ndata: , "choices"'), *SPOKEN[1:]],
    ),
    case("extra blank lines", [b"\n\n" + e + b"\n\n" for e in SPOKEN]),
    case("no [DONE]", SPOKEN[:-1]),
    case("no usage", [*SPOKEN[:3], DONE], usage=(False, 0, 0, 0)),
    case(
        "usage on every chunk",
        [e[:-3] + b', "usage": {"prompt_tokens": 4, "completion_tokens": 1}}\n\n' for e in SPOKEN[:3]]
        + SPOKEN[3:],
    ),
    case("usage null", [e[:-3] + b', "usage": null}\n\n' for e in SPOKEN[:3]] + SPOKEN[3:]),
    case("usage without choices", [*SPOKEN[:3], SPOKEN[3].replace(b'"choices": [], ', b""), DONE]),
]


@pytest.mark.parametrize(("pieces", "expected"), FRAMINGS)
def test_framing_does_not_change_the_record(pieces: list[bytes], expected: dict[str, Any]) -> None:
    got = outcome(parse([chunked(pieces)]))
    assert got == outcome(parse([chunked(SPOKEN)])) | expected
    assert got["text"] == "Hello" and got["ids"] == [1, 2, 3] and got["done"] and not got["error"]


CONTENTS = [
    case("role-only first chunk is no token", CHAT, text="Hi you", num_content=2, usage=(True, 3, 2, 0)),
    case("empty text and no ids", [choices(text=""), token("a", 1, finish="stop"), DONE], num_content=1),
    case(
        "detokenize off", [token("", 5), token("", 6, 7, finish="length"), DONE], ids=[5, 6, 7], num_content=2
    ),
    case(
        "several tokens a chunk", [token("abc", 1, 2, 3, finish="length"), DONE], ids=[1, 2, 3], num_content=1
    ),
    case(
        "reasoning",
        [
            choices(delta={"reasoning_content": "hm"}),
            choices(delta={"reasoning": "m"}),
            choices(delta={"content": "!"}, finish_reason="stop"),
            DONE,
        ],
        text="hmm!",
        num_content=3,
    ),
    case(
        "tool call",
        [
            choices(delta={"role": "assistant", "content": None, "tool_calls": []}),
            choices(delta={"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]}),
            choices(delta={}, finish_reason="tool_calls"),
            DONE,
        ],
        text="",
        num_content=1,
        finish="tool_calls",
    ),
    case(
        "completion logprobs",
        [choices(text="a", logprobs={"token_logprobs": [-0.5], "tokens": ["a"]}, finish_reason="stop"), DONE],
        logprobs=[-0.5],
    ),
    case(
        "chat-shaped logprobs carry ids",
        [choices(text="a", logprobs={"content": [{"id": 9, "logprob": -1.5}]}, finish_reason="stop"), DONE],
        logprobs=[-1.5],
        ids=[9],
    ),
    case(
        "-inf logprob",
        [
            b'data: {"choices":[{"text":"a","finish_reason":"stop",'
            b'"logprobs":{"token_logprobs":[-Infinity]}}]}\n\n'
        ],
        logprobs=[-9999.0],
        error_kind="",
    ),
    case(
        "NaN logprob",
        [b'data: {"choices":[{"text":"a","logprobs":{"token_logprobs":[NaN]},"finish_reason":"stop"}]}\n\n'],
        error_kind="engine",
        error="a logprob is NaN",
    ),
    case(
        "cached tokens",
        [
            token("a", 1, finish="stop"),
            event(
                {
                    "choices": [],
                    "usage": {
                        "prompt_tokens": 8,
                        "completion_tokens": 1,
                        "prompt_tokens_details": {"cached_tokens": 6},
                    },
                }
            ),
        ],
        usage=(True, 8, 1, 6),
    ),
    case(
        "error object in mid-stream",
        [SPOKEN[0], event({"error": {"message": "died"}}), DONE],
        error_kind="engine",
    ),
    case("error event in mid-stream", [SPOKEN[0], b"event: error\ndata: died\n\n", DONE], error="died"),
    case("old error object", [event({"object": "error", "message": "too long"})], error_kind="engine"),
    case("null error is none", [token("a", 1, finish="stop")[:-3] + b', "error": null}\n\n'], error_kind=""),
    case("aborted", [token("a", 1, finish="abort"), DONE], error_kind="engine"),
    case("no end said", SPOKEN[:2], error_kind="truncated", text="Hello"),
    case("not JSON", [SPOKEN[0], b"data: {oops\n\n"], error_kind="protocol", text="Hel"),
    case("not an object", [b"data: 7\n\n"], error_kind="protocol"),
    case("a megabyte in one chunk", [token("x" * 1_000_000, 1, finish="stop"), DONE], text="x" * 1_000_000),
    case("unfinished event at the end", [*SPOKEN, b"data: {"], error_kind=""),
]


@pytest.mark.parametrize(("pieces", "expected"), CONTENTS)
def test_contents(pieces: list[bytes], expected: dict[str, Any]) -> None:
    got = outcome(parse([chunked(pieces)]))
    assert {name: got[name] for name in expected} == expected


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
CHUNKS = st.lists(st.tuples(TEXTS, st.lists(st.integers(0, 200_000), max_size=3)), min_size=1, max_size=12)
LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
NOISE = st.sampled_from([b"", b": ping\n\n", b"\n", b"event: message\n", b"id: 1\n\n"])


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, list[tuple[str, list[int]]]]:
    """A valid stream in any framing, and its chunks."""
    chunks = draw(CHUNKS)
    end = draw(LINE_ENDS)
    events = [draw(NOISE) + token(text, *ids) for text, ids in chunks]
    events += [choices(text="", finish_reason="length"), usage(4, len(chunks))]
    events += [DONE] if draw(st.booleans()) else []
    body = b"".join(e.replace(b"\n", end) for e in events)
    if draw(st.booleans()):
        pieces = [e.replace(b"\n", end) for e in events]
    else:
        size = draw(st.integers(1, 200))
        pieces = [body[i : i + size] for i in range(0, len(body), size)]
    return chunked(pieces), chunks


@pytest.mark.parametrize("num_last", range(1, 9))
def test_an_end_that_comes_in_pieces_is_seen(num_last: int) -> None:
    stream = chunked([*(token(f" w{i}", i) for i in range(20)), token("", 1, finish="length"), DONE])
    at = len(stream) - num_last
    front = [piece + b"\n\n\r\n" for piece in stream[:at].split(b"\n\n\r\n") if piece]
    front[-1] = front[-1][: at - sum(map(len, front[:-1]))]
    for rest in ([stream[at:]], [bytes([byte]) for byte in stream[at:]]):
        assert b"".join(front + rest) == stream
        assert outcome(parse(front + rest, batched=True)) == outcome(parse([stream]))


@given(answers(), st.data())
@settings(max_examples=300, deadline=None)
def test_any_split_of_a_valid_stream_gives_the_same_record(
    made: tuple[bytes, list[tuple[str, list[int]]]], data: st.DataObject
) -> None:
    stream, chunks = made
    cuts = sorted(set(data.draw(st.lists(st.integers(1, len(stream) - 1), max_size=30))))
    reads = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    one_by_one, at_once, whole = parse(reads), parse(reads, batched=True), parse([stream])
    assert outcome(one_by_one) == outcome(at_once) == outcome(whole)
    assert streams.stamps_of(one_by_one) == streams.stamps_of(at_once)
    got = outcome(whole)
    assert got["text"] == "".join(text for text, _ in chunks)
    assert got["ids"] == [i for _, ids in chunks for i in ids]
    assert got["num_content"] == sum(1 for text, ids in chunks if text or ids)
    assert got["error_kind"] == ""


def test_every_byte_by_itself_stamps_the_completing_byte() -> None:
    stream = chunked([SPOKEN[0], SPOKEN[2]])
    response = parse([stream[i : i + 1] for i in range(len(stream))])
    first_end = stream.index(b"\n\n", len(streams.HEAD)) + 2
    assert streams.stamps_of(response)[0] == first_end
    assert response.done and not response.error


def test_the_stamp_is_of_the_read_that_completed_the_event() -> None:
    one, two = http_chunk(SPOKEN[0]), http_chunk(SPOKEN[1])
    reads = [streams.HEAD + one[:10], one[10:] + two[:5], two[5:], chunked(SPOKEN[2:], b"")]
    for batched in (False, True):
        assert streams.stamps_of(parse(reads, batched=batched)) == [2, 3, 4]


def test_event_types_and_multi_line_data() -> None:
    parser = EventParser()
    assert parser.feed(b"event: a\ndata: 1\ndata:\ndata:  2\n\nevent: b\n\ndata: 3\n\n") == [
        (b"a", b"1\n\n 2"),
        (b"", b"3"),
    ]


def test_cr_at_the_end_of_a_read_does_not_end_two_lines() -> None:
    parser = EventParser()
    assert parser.feed(b"data: 1\r") == []
    assert parser.feed(b"\ndata: 2\r") == []
    assert parser.feed(b"\n\r") == [(b"", b"1\n2")]
    assert parser.feed(b"\n") == []
    assert parser.clean


@pytest.mark.parametrize("text", ["é", "日本", "🙂", "\u2028", "\x00", '"\\'])
def test_any_text_survives_being_cut_in_its_middle(text: str) -> None:
    stream = chunked([token(text, 1, finish="stop")])
    raw = chunked(
        [b"data: " + json.dumps({"choices": [{"text": text, "finish_reason": "x"}]}).encode() + b"\n\n"]
    )
    for made in (stream, raw):
        reads = [made[i : i + 1] for i in range(len(made))]
        assert outcome(parse(reads))["text"] == text
