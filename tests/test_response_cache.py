"""A cache of answers is told from an engine, and from an honest prefix cache, by how long a repeat takes."""

from __future__ import annotations

import random

import pytest

from harness.client import Target
from harness.correctness import promises, response_cache
from harness.correctness.promises import Point
from harness.correctness.response_cache import Round
from harness.schema import RequestRecord
from tests.completions_server import Flaws, serving


def asked(flaws: Flaws, way: str = "ids") -> Point:
    with serving(flaws) as url:
        return response_cache.ask(Target(base_url=url, model="m"), way, random.Random(1))  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["ids", "text"])
def test_an_endpoint_that_answers_repeats_from_memory_is_found(way: str) -> None:
    point = asked(Flaws(token_s=0.004, response_cache=True), way)
    assert not point.held and point.found.startswith("a repeated prompt took 0.0")
    assert "restarts send the same prompts again" in promises.cached((point,))


@pytest.mark.parametrize(
    "flaws",
    [
        Flaws(token_s=0.004),
        Flaws(token_s=0.001, prefill_s=0.2, prefix_cache=True),
        Flaws(token_s=0.004, unstable=True, response_cache=True),
    ],
    ids=["no-cache", "prefix-cache", "other-answers"],
)
def test_an_endpoint_that_generates_keeps_the_promise(flaws: Flaws) -> None:
    """To the second of these a prefix is worth 0.2 s: repeats are far quicker there than what is new."""
    point = asked(flaws)
    assert point.held, point.found
    assert promises.cached((point,)) == ""


def record(took_s: float, text: str = "a") -> RequestRecord:
    return RequestRecord(
        request_id="r",
        sent_at_s=1.0,
        content_at_s=(1.0 + took_s,),
        output_len=response_cache.OUTPUT_LEN,
        text=text,
    )


def test_one_quick_repeat_is_luck_and_times_near_nothing_tell_nothing() -> None:
    honest = Round(record(0.5), record(0.5, "b"), record(0.49))
    cached = Round(record(0.5), record(0.5, "b"), record(0.1))
    assert response_cache.judged([honest, honest, honest, cached]).held
    assert not response_cache.judged([honest, honest, cached, cached]).held
    hurried = Round(record(0.01), record(0.01, "b"), record(0.001))
    point = response_cache.judged([hurried] * 4)
    assert point.held and point.found.endswith("too quick to tell")


def test_a_neighbour_that_stalled_accuses_nobody() -> None:
    stalled = Round(record(0.1), record(2.0, "b"), record(0.1))
    calm = Round(record(0.1), record(0.1, "b"), record(0.1))
    assert response_cache.judged([stalled, stalled, stalled, calm]).held


def test_silence_accuses_nobody() -> None:
    point = response_cache.ask(Target(base_url="http://127.0.0.1:9", model="m"))
    assert point.held and point.found == "nothing was answered"
