"""A million mutated streams through the parser: no crash, no hang, and both ways of parsing agree.

usage: python -m benchmarks.fuzz_sse [COUNT] [SEED]

Each stream is a valid answer in one of several framings with 1-8 seeded mutations (bytes changed, cut,
doubled, spliced from another stream, sizes made huge), split at seeded places. It is parsed read by read
and in one batch; the two must end alike. Prints a JSON line.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import time
from collections import Counter

from tests import streams
from tests.streams import DIALECTS, DONE, SPOKEN, chunked, event, outcome, parse, spoken_by, token, usage

_TOKENS = [token(f" w{i}", i) for i in range(8)]
_CHAT = [event({"choices": [{"delta": {"content": f"{i}é🙂"}, "finish_reason": None}]}) for i in range(6)]
_END = [token("", 1, finish="stop"), usage(3, 9), DONE]
_ALIKE = [spoken_by(engine, [(f" w{i}", 90 + i) for i in range(14)]) for engine in sorted(DIALECTS)]
BODIES = [SPOKEN, [*_TOKENS, *_END], [*_CHAT, *_END], [b": ping\n\n", *_TOKENS, *_END], *_ALIKE]
SEEDS = [
    chunked(SPOKEN),
    chunked([*_TOKENS, *_END]),
    chunked([b"".join([*_TOKENS, *_END])]),
    chunked([*_CHAT, *_END]),
    chunked([e.replace(b"\n", b"\r\n") for e in (*_TOKENS, *_END)]),
    chunked([b": ping\n\n", *_TOKENS, event({"error": {"message": "x"}}), DONE]),
    *map(chunked, _ALIKE),
    streams.CLOSING_HEAD + b"".join([*_CHAT, *_END]),
    b"HTTP/1.1 429 Too Many\r\nRetry-After: 1\r\nContent-Length: 5\r\n\r\nlater",
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 63\r\n\r\n"
    b'{"choices":[{"text":"a","finish_reason":"stop"}],"usage":null} ',
]
_BITES = [
    b"\r",
    b"\n",
    b"\r\n\r\n",
    b"data: ",
    b"0\r\n\r\n",
    b"[DONE]",
    b"\xff",
    b"\x00",
    b"ffffffff",
    b'"',
    b"{",
    b"NaN",
    b"\n\n\r\n",
]
_SLOW_S = 1.0


def mutate(draw: random.Random, stream: bytes) -> bytes:
    """The stream with a few things wrong."""
    data = bytearray(stream)
    for _ in range(draw.choice((1, 1, 2, 4, 8))):
        at = draw.randrange(len(data) + 1)
        match draw.randrange(6):
            case 0 if data:
                data[min(at, len(data) - 1)] = draw.randrange(256)
            case 1:
                del data[at : at + draw.randint(1, 20)]
            case 2:
                data[at:at] = data[at : at + draw.randint(1, 60)]
            case 3:
                data[at:at] = draw.choice(_BITES)
            case 4:
                other = draw.choice(SEEDS)
                begin = draw.randrange(len(other))
                data[at:at] = other[begin : begin + draw.randint(1, 80)]
            case _:
                del data[at:]
                data += draw.choice(SEEDS)[-draw.randint(1, 100) :]
    return bytes(data)


def spoil(draw: random.Random) -> bytes:
    """A stream with something wrong in its bytes, or (half of them) only in its events, well chunked."""
    if draw.random() < 0.5:
        return mutate(draw, draw.choice(SEEDS))
    body = mutate(draw, b"".join(draw.choice(BODIES)))
    pieces = [piece + b"\n\n" for piece in body.split(b"\n\n")]
    return chunked([piece for piece in pieces if piece])


def split(draw: random.Random, stream: bytes) -> list[bytes]:
    """Reads cut anywhere; often where a server's writes end."""
    if draw.random() < 0.5:
        pieces = stream.split(b"\n\n\r\n")
        return [p + b"\n\n\r\n" for p in pieces[:-1]] + ([pieces[-1]] if pieces[-1] else [])
    cuts = sorted({draw.randrange(len(stream) + 1) for _ in range(draw.randrange(12))} | {0, len(stream)})
    return [stream[a:b] for a, b in itertools.pairwise(cuts)]


def run(count: int, seed: int = 0) -> dict[str, object]:
    """Parse `count` mutated streams. Raises AssertionError with the stream on a disagreement or a hang."""
    draw = random.Random(seed)
    kinds: Counter[str] = Counter()
    slowest, began = 0.0, time.monotonic()
    for _ in range(count):
        reads = split(draw, spoil(draw))
        start = time.process_time()
        one_by_one, batched = parse(reads, closed=True), parse(reads, batched=True, closed=True)
        took = time.process_time() - start
        slowest = max(slowest, took)
        result = outcome(one_by_one)
        assert took < _SLOW_S, reads
        assert result["done"] and result == outcome(batched), reads
        assert streams.stamps_of(one_by_one) == streams.stamps_of(batched), reads
        kinds[str(result["error_kind"]) or "ok"] += 1
    return {
        "streams": count,
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
        "slowest_s": round(slowest, 4),
        **kinds,
    }


if __name__ == "__main__":
    print(json.dumps(run(*(int(word) for word in sys.argv[1:] or ["1000000"]))))
