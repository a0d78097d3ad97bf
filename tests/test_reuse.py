"""What caches and drafts did, told by the answers and by the engine's counters."""

import msgspec
import pytest

from harness.client.answer import Answer, decode
from harness.numbers import reuse
from harness.schema import Load, Trial, TrialResult, WorkloadSpec
from harness.trial import grown

TRIAL = Trial(variant="v", workload=WorkloadSpec(name="shared_prefix"), load=Load(max_concurrency=4))


def result(told: dict[str, float], counters: dict[str, float]) -> TrialResult:
    return TrialResult(trial=TRIAL, status="done", told=told, counters=counters)


def test_hits_and_acceptance_are_told_twice() -> None:
    told = {"prompt_tokens": 1000.0, "cached_tokens": 600.0, "accepted_tokens": 90.0, "run_tokens": 88.0}
    counted = {
        "prefix_cache_hits": 602.0,
        **{"drafts": 100.0, "draft_tokens": 300.0, "accepted_tokens": 90.0},
        **{"accepted_at_0": 60.0, "accepted_at_1": 30.0, "accepted_at_2": 0.0},
    }
    found = reuse.reuse([result(told, counted)] * 2, 0.61)
    assert found is not None
    assert (found.hit_share, found.hit_share_counted, found.hit_share_ideal) == (0.6, 0.602, 0.61)
    assert (found.acceptance_length, found.acceptance_length_told) == (1.9, 1.9)
    assert (found.acceptance_rate, found.rate_at, found.doubt) == (0.3, (0.6, 0.3, 0.0), "")
    assert reuse.words(found) == (
        "reused 60.0% of prompt tokens (counters 60.2%, ideal 61.0%); 1.90 tokens a verification, 30% of "
        "drafts accepted (answers 1.90, by position 60% 30% 0%)"
    )


@pytest.mark.parametrize(
    ("told", "counted", "doubt"),
    [
        ({"cached_tokens": 500.0}, {"prefix_cache_hits": 520.0}, "hit rates disagree by over 1 %: 50.00%"),
        (
            {"accepted_tokens": 50.0},
            {"drafts": 100.0, "accepted_tokens": 60.0},
            "acceptance lengths disagree",
        ),
        ({"run_tokens": 50.0}, {"verifications": 100.0, "generation_tokens": 160.0}, "1.600 by the counters"),
    ],
)
def test_a_row_says_where_the_two_disagree(
    told: dict[str, float], counted: dict[str, float], doubt: str
) -> None:
    found = reuse.reuse([result({"prompt_tokens": 1000.0, **told}, counted)], 0.0)
    assert found is not None and doubt in found.doubt and doubt in reuse.words(found)


def test_where_nothing_was_reused_there_is_nothing_to_tell() -> None:
    told = {"prompt_tokens": 1000.0, "cached_tokens": 0.0, "accepted_tokens": 0.0, "run_tokens": 0.0}
    assert reuse.reuse([result(told, {"prefix_cache_hits": 0.0})], 0.5) is None
    assert reuse.reuse([result({}, {})], 0.0) is None


def test_a_counter_that_began_in_the_timed_part_began_at_nothing() -> None:
    """SGLang's cached tokens exist from the first hit on."""
    before, after = {"prompt_tokens": 5.0}, {"prompt_tokens": 9.0, "prefix_cache_hits": 3.0, "running": 1.0}
    assert grown(before, after) == {"prompt_tokens": 4.0, "prefix_cache_hits": 3.0}
    assert grown({}, after) == {}


def test_an_answer_tells_its_drafts() -> None:
    """vLLM 0.32.0's SpeculativeDecodingMetrics beside the usage; llama.cpp's timings."""
    ours = Answer()
    ours.add(decode(b'{"choices":[{"text":"a","token_ids":[1]}]}'), 1)
    ours.add(decode(b'{"choices":[{"text":"bcd","token_ids":[2,3,4]}]}'), 2)
    told = {"num_accepted_draft_tokens": 2, "num_draft_tokens": 3, "mean_acceptance_length": 3.0}
    usage = {"prompt_tokens": 9, "completion_tokens": 4}
    last = {"choices": [], "usage": usage, "metrics": {"speculative_decoding": told}}
    ours.add(decode(msgspec.json.encode(last)), 3)
    assert (ours.runs, ours.drafted_len, ours.accepted_len) == ([(1, 3)], 3, 2)
    llama = Answer()
    llama.add(decode(b'{"choices":[{"text":"a"}],"timings":{"draft_n":36,"draft_n_accepted":1}}'), 1)
    assert (llama.drafted_len, llama.accepted_len) == (36, 1)
