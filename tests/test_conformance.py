"""Each promise an endpoint can break is found by its own point, and an honest endpoint breaks none."""

from __future__ import annotations

import pytest

from harness.client import Target
from harness.correctness import conformance
from tests.completions_server import Flaws, serving


def broken(flaws: Flaws) -> list[str]:
    with serving(flaws) as url:
        points = conformance.preflight(Target(base_url=url, model="m"), harsh=True)
    assert len(points) == 15
    assert all(p.found and p.consequence for p in points)
    return [p.name for p in points if not p.held]


def test_an_honest_endpoint_keeps_every_promise() -> None:
    assert broken(Flaws()) == []


@pytest.mark.parametrize(
    ("flaws", "names"),
    [
        (Flaws(adds_bos=True), ["usage.prompt_tokens is exact"]),
        (Flaws(stops_early=True), ["max_tokens and ignore_eos are honoured"]),
        (Flaws(no_ids=True), ["output token ids"]),
        (Flaws(no_logprobs=True), ["logprobs of emitted tokens"]),
        (Flaws(tokens_per_chunk=5), ["one token per chunk"]),
        (Flaws(stream_differs=True), ["stream equals whole answer", "stop strings"]),
        (Flaws(no_done=True), ["[DONE] ends the stream"]),
        (Flaws(ignores_stop=True), ["stop strings"]),
        (
            Flaws(accepts_anything=True),
            [
                "max_tokens -1 is refused",
                "temperature 'hot' is refused",
                "a token id beyond the vocabulary is refused",
            ],
        ),
        (Flaws(dies_of_bad_requests=True), ["still answers after bad requests"]),
    ],
)
def test_a_broken_promise_is_its_own_point(flaws: Flaws, names: list[str]) -> None:
    assert broken(flaws) == names


def test_an_endpoint_without_usage_is_found_by_every_point_that_counts() -> None:
    names = broken(Flaws(no_usage=True))
    assert "usage chunk in the stream" in names and "usage.prompt_tokens is exact" in names


def test_unstable_greedy_output_is_reported() -> None:
    assert "greedy output repeats" in broken(Flaws(unstable=True))


def test_an_endpoint_without_token_id_prompts_breaks_nearly_everything_but_is_not_a_crash() -> None:
    names = broken(Flaws(text_only=True))
    assert names[0] == "completions with token-id prompts"
    assert "still answers after bad requests" in names


def test_broken_points_become_sentences_with_their_consequence() -> None:
    with serving(Flaws(no_usage=True)) as url:
        points = conformance.preflight(Target(base_url=url, model="m"))
    sentence = next(s for s in conformance.broken(points) if s.startswith("usage chunk"))
    assert sentence.startswith(
        "usage chunk in the stream: absent; output tokens are counted by re-tokenising"
    )


def test_what_may_kill_a_gpu_engine_is_sent_on_request_only() -> None:
    with serving(Flaws(accepts_anything=True)) as url:
        points = conformance.preflight(Target(base_url=url, model="m"))
    assert not any("vocabulary" in p.name for p in points)
