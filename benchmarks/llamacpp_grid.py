"""All points of llama.cpp's space in minutes: the truth that searches are replayed against.

usage: .engines/llamacpp/bin/python -m benchmarks.llamacpp_grid MODEL OUT [seconds=300]

Runs in the engine's own environment, with the very parameters that engines/llamacpp.py would set. A point is
a fork: its server takes 16 requests of 60 random tokens in and 60 out, eight at a time, after eight for
warmth. The figure is output tokens per second of the process's own CPU time, which does not depend on what
else the machine does as the clock would. Points are taken in shuffled order, twice over; OUT (a line a
measurement) is gone on with when it is there. No reference reads these outputs: they are not judged here.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests

from engines import llamacpp

SETTINGS: dict[str, tuple[str, ...]] = {
    "slots": ("1", "2", "4", "8"),
    "weights": ("f32", "bf16", "q8_0"),
    "kv": ("f32", "f16", "q8_0"),
    "flash": ("false", "true"),
}
"""Of engines/llamacpp.space.toml."""
RESTARTS = 2
NUM, WARM, STREAMS, LENGTH, VOCABULARY = 16, 8, 8, 60, 2000
_LONGEST_S = 60.0


def points() -> Iterator[tuple[int, dict[str, str]]]:
    """(restart, point) in shuffled order, the same in every process."""
    every = [dict(zip(SETTINGS, words, strict=True)) for words in itertools.product(*SETTINGS.values())]
    for restart in range(1, RESTARTS + 1):
        shuffled = list(every)
        random.Random(restart).shuffle(shuffled)
        yield from ((restart, point) for point in shuffled)


def measured(model: Path, point: dict[str, str]) -> dict[str, Any]:
    """Output tokens per CPU second of one point, in a fork; why there is none where it did not serve."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        said: dict[str, Any]
        try:
            said = _serve(model, point)
        except Exception as error:
            said = {"why": f"failed: {' '.join(str(error).split())}"}
        os.write(write, json.dumps(said).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    answer: dict[str, Any] = json.loads(text) if text else {"why": "failed: it ended while starting"}
    return answer


def _serve(model: Path, point: dict[str, str]) -> dict[str, Any]:
    import xllamacpp

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    words = [str(model), "--port", str(_free_port()), "--name", "grid", "--max-model-len", "512"]
    words += [word for key in ("slots", "weights", "kv") for word in (f"--{key}", point[key])]
    words += ["--flash-attention"] if point["flash"] == "true" else []
    given = llamacpp.arguments().parse_args(words)
    server = xllamacpp.Server(llamacpp.configured(given))
    _fired(server.listening_address, WARM, seed=1)
    began_s, clock_s = time.process_time(), time.monotonic()
    tokens = _fired(server.listening_address, NUM, seed=2)
    cpu_s = time.process_time() - began_s
    return {"value": tokens / cpu_s, "clock": tokens / (time.monotonic() - clock_s)}


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _fired(url: str, num: int, seed: int) -> int:
    """Output tokens of `num` requests."""
    rng = random.Random(seed)
    bodies = [
        {
            "prompt": [rng.randrange(10, VOCABULARY) for _ in range(LENGTH)],
            "max_tokens": LENGTH,
            "ignore_eos": True,
            "temperature": 0.0,
            "cache_prompt": False,
        }
        for _ in range(num)
    ]

    def ask(body: dict[str, Any]) -> int:
        answer = requests.post(f"{url}/v1/completions", json=body, timeout=_LONGEST_S)
        answer.raise_for_status()
        return int(answer.json()["usage"]["completion_tokens"])

    with ThreadPoolExecutor(STREAMS) as pool:
        return sum(pool.map(ask, bodies))


def main(given: list[str]) -> None:
    """Measure what OUT lacks until the time is up; exit status 1 when some is left."""
    model, out = Path(given[0]), Path(given[1])
    limit_s = float(given[2].partition("=")[2]) if len(given) > 2 else 300.0
    have = [json.loads(line) for line in out.read_text("utf-8").splitlines()] if out.exists() else []
    done = {(one["restart"], *one["point"].values()) for one in have}
    began = time.monotonic()
    for restart, point in points():
        if (restart, *point.values()) in done:
            continue
        if time.monotonic() - began > limit_s:
            sys.exit(1)
        said = {"restart": restart, "point": point, **measured(model, point)}
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
