"""The quick way through a batch of reads, held against the general parser, which reads byte by byte."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fuzz_sse import mutate
from harness.client.bulk import read_batch
from tests import streams
from tests.streams import DIALECTS, HEAD, chunked, http_chunk, outcome, parse, spoken_by

WORDS = st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), st.sampled_from(["", " a"]))
TOKENS = st.lists(st.tuples(WORDS, st.integers(0, 200_000)), min_size=8, max_size=40)
ENGINES = st.sampled_from(sorted(DIALECTS))


def reads_of(events: list[bytes], sizes: list[int]) -> list[bytes]:
    """The head, then reads of as many whole events as `sizes` says in turn, as a busy server sends them."""
    reads, at = [HEAD], 0
    pieces = [*map(http_chunk, events), b"0\r\n\r\n"]
    for size in [*sizes, *[1] * len(pieces)]:
        if at < len(pieces):
            reads.append(b"".join(pieces[at : at + size]))
        at += size
    return reads


def agree(reads: list[bytes]) -> None:
    """Both ways give the same record and the same stamps."""
    exact, quick = parse(reads, closed=True), parse(reads, batched=True, closed=True)
    assert outcome(exact) == outcome(quick)
    assert streams.stamps_of(exact) == streams.stamps_of(quick)


@given(ENGINES, TOKENS, st.lists(st.integers(1, 4), max_size=40))
@settings(max_examples=300, deadline=None)
def test_shortcut_and_general_parser_give_one_record(
    engine: str, tokens: list[tuple[str, int]], sizes: list[int]
) -> None:
    reads = reads_of(spoken_by(engine, tokens), sizes)
    agree(reads)
    assert outcome(parse(reads, batched=True))["text"] == "".join(text for text, _ in tokens)


@given(ENGINES, TOKENS, st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_mutated_streams_give_one_record(engine: str, tokens: list[tuple[str, int]], seed: int) -> None:
    draw = random.Random(seed)
    body = mutate(draw, b"".join(spoken_by(engine, tokens)))
    well_chunked = reads_of([piece + b"\n\n" for piece in body.split(b"\n\n")], [])
    stream = mutate(draw, chunked(spoken_by(engine, tokens)))
    agree(well_chunked)
    agree([piece + b"\n\n\r\n" for piece in stream.split(b"\n\n\r\n")])


@pytest.mark.parametrize("engine", DIALECTS)
@pytest.mark.parametrize("size", [1, 3])
def test_every_dialect_takes_the_shortcut(engine: str, size: int) -> None:
    words = [(f" w{i}\u00e9\n" * (i % 3), i * 997) for i in range(30)]
    reads = reads_of(spoken_by(engine, words), [size] * 40)[1:-1]
    batch = read_batch(reads, list(range(len(reads))))
    assert batch is not None and batch.size_left == 0 and len(batch.chunks) >= 30
    assert list(batch.stamps[:30]) == [i // size for i in range(30)]


def test_sizes_in_capital_letters_take_the_shortcut() -> None:
    reads = [b"%X\r\n%b\r\n" % (len(e), e) for e in spoken_by("vllm", [("abc", i) for i in range(9)])[:-1]]
    assert read_batch(reads, range(len(reads))) is not None
    agree([HEAD, *reads, b"0\r\n\r\n"])


def change(reads: list[bytes], old: bytes, new: bytes) -> list[bytes]:
    """One event in the middle differs; its size stays what it was."""
    return [*reads[:5], reads[5].replace(old, new), *reads[6:]]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"cmpl-b07b", b"cmpl-b07c"),
        (b'"finish_reason":null', b'"finish_reason":"ab"'),
        (b"abc", b'a"c'),
        (b"abc", b"a\\c"),
        (b"abc", b"a\x01c"),
        (b"abc", b"a\xffc"),
        (b"[5]", b"[x]"),
        (b"[5]", b"[,]"),
        (b'"abc"', b'"a\nc"'),
        (b"data: ", b"data:\t"),
        (b"]}]}\n\n\r\n", b"]}]}\n\n\n\n"),
    ],
)
def test_one_byte_that_differs_means_the_same_in_both_ways(old: bytes, new: bytes) -> None:
    good = [http_chunk(e) for e in spoken_by("vllm", [("abc", i) for i in range(12)])[:12]]
    bad = change(good, old, new)
    assert bad != good
    agree([HEAD, *bad, b"0\r\n\r\n"])


def test_json_that_spans_two_events_is_an_error_in_both_ways() -> None:
    """Joined by a comma they would be two valid chunks."""
    first, second = b'data: {"choices":[{"text":"a"}]},{"x":[1\n\n', b'data: 2,"' + b"y" * 20 + b'"]}\n\n'
    agree([HEAD, *[http_chunk(first), http_chunk(second)] * 8, b"0\r\n\r\n"])


@pytest.mark.parametrize("blank", [b"\n", b"\r", b" ", b"\t"])
def test_white_space_before_an_id_means_what_it_means_in_an_event(blank: bytes) -> None:
    events = spoken_by("vllm", [("abc", i) for i in range(12)])
    events[5] = events[5].replace(b"[5]", b"[" + blank + b"5]")
    agree([HEAD, *map(http_chunk, events), b"0\r\n\r\n"])
