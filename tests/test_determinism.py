"""Greedy output compared with that of requests alone, on servers that are and are not deterministic."""

from __future__ import annotations

from harness.client import Target
from harness.correctness import determinism, promises
from harness.schema import Request
from tests.completions_server import Flaws, serving

REQUESTS = [
    Request(request_id=f"r{i}", prompt_token_ids=(i, i + 1), max_tokens=10, temperature=0.7, logprobs=True)
    for i in range(6)
]


def test_a_deterministic_engine_says_the_same_at_every_batch_size() -> None:
    with serving() as url:
        found = determinism.passes(Target(base_url=url, model="m"), REQUESTS, (1, 1, 4))
    assert [(p.concurrency, p.num_same, p.num_requests) for p in found] == [(1, 6, 6), (4, 6, 6)]
    assert found[1].max_abs_dlogprob == 0.0 and found[1].first_divergence is None
    assert promises.stability(found).endswith("6/6 at 1 in flight, 6/6 at 4 in flight")


def test_differences_are_counted_and_placed() -> None:
    with serving(Flaws(unstable=True)) as url:
        (found,) = determinism.passes(Target(base_url=url, model="m"), REQUESTS, (1, 1))
    assert found.num_same == 0
    assert found.first_divergence == 0


def test_failed_requests_count_as_different() -> None:
    with serving(Flaws(text_only=True)) as url:
        (found,) = determinism.passes(Target(base_url=url, model="m"), REQUESTS, (1, 2))
    assert found.num_same == 0
