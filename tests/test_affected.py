"""Tokens behind a cache hit and tokens accepted from a draft, judged beside the others."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from harness.correctness import affected
from harness.correctness.affected import CACHED, DRAFTED, OTHERS, Output
from harness.correctness.agreement import judge
from harness.correctness.floors import JudgeSettings
from harness.schema import Population, Request, RequestRecord, Score
from tests.test_agreement import scores

BF16 = JudgeSettings()
LENGTH = 64


def record(request_id: str, hit: bool = False, every: int = 0) -> RequestRecord:
    """`every`: verifications of so many tokens, of which all but the last were drafted."""
    runs = tuple((first, every) for first in range(1, LENGTH - every, every)) if every else ()
    return RequestRecord(
        request_id=request_id, content_at_s=(0.1,), cached_len=100 * hit, runs=runs, output_len=LENGTH
    )


def spoilt(score: Score, mask: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Score:
    """Its tokens of the mask are not what the reference would say."""
    margin = np.where(mask, 2.0, score.margin)
    logprob = np.where(mask, np.asarray(score.logprob) - 2.0, score.logprob)
    return msgspec.structs.replace(score, margin=tuple(margin.tolist()), logprob=tuple(logprob.tolist()))


def by_name(found: tuple[Population, ...]) -> dict[str, Population]:
    return {p.name: p for p in found}


@pytest.mark.parametrize("seed", range(2))
def test_healthy_tokens_pass_on_both_sides(seed: int) -> None:
    made = scores(seed, num=24)
    outputs = [Output(s, record(s.request_id, hit=i % 2 == 0, every=3)) for i, s in enumerate(made)]
    found = by_name(affected.populations(outputs, BF16, drafting=True))
    assert {p.verdict for p in found.values()} == {"PASS"}
    assert found[CACHED].num_tokens == 12 * LENGTH
    assert found[DRAFTED].num_tokens == 24 * 2 * 20
    whole = judge(made, ())
    assert affected.joined(whole, tuple(found.values())).verdict == "PASS"


def test_a_fault_in_few_tokens_fails_them_though_the_mean_over_all_passes() -> None:
    """One cached answer in twelve is spoilt a little, in logprobs alone."""
    made = scores(3, num=96)
    outputs = []
    for i, score in enumerate(made):
        hit = i % 12 == 0
        if hit:
            off = np.asarray(score.emitted_logprob) + 0.055 * np.where(np.arange(LENGTH) % 2, 1, -1)
            score = msgspec.structs.replace(score, emitted_logprob=tuple(off.tolist()))
        outputs.append(Output(score, record(score.request_id, hit)))
    whole = judge([o.score for o in outputs], ())
    assert whole.verdict == "PASS"
    found = affected.populations(outputs, BF16, drafting=False)
    assert by_name(found)[CACHED].verdict == "FAIL" and by_name(found)[OTHERS].verdict == "PASS"
    joined = affected.joined(whole, found)
    assert joined.verdict == "FAIL" and joined.reason.startswith("tokens behind a cache hit: ")


def test_unverified_drafts_fail_as_drafts() -> None:
    outputs = []
    for score in scores(4, num=16):
        told = Output(score, record(score.request_id, every=4))
        mask = affected.drafted(told) & (np.random.default_rng(5).random(LENGTH) < 0.5)
        outputs.append(told._replace(score=spoilt(score, mask)))
    found = by_name(affected.populations(outputs, BF16, drafting=True))
    assert found[DRAFTED].verdict == "FAIL" and found[OTHERS].verdict == "PASS"


def test_a_conversation_that_goes_bad_names_the_turn() -> None:
    made = scores(6, num=24)
    outputs = []
    for i, score in enumerate(made):
        turn = 1 + i % 3
        bad = np.random.default_rng(i).random(LENGTH) < (0.3 if turn == 3 else 0.0)
        outputs.append(Output(spoilt(score, bad), record(score.request_id, hit=turn > 1), turn))
    found = by_name(affected.populations(outputs, BF16, drafting=False))
    assert found[f"{CACHED}, turn 2"].verdict == "PASS"
    assert found[f"{CACHED}, turn 3"].verdict == "FAIL"


def test_without_a_cache_a_conversation_is_judged_by_turn_all_the_same() -> None:
    made = scores(10, num=24)
    outputs = [Output(s, record(s.request_id), 1 + i % 3) for i, s in enumerate(made)]
    found = affected.populations(outputs, BF16, drafting=False)
    assert [(p.name, p.verdict) for p in found] == [(f"all output, turn {t}", "PASS") for t in (1, 2, 3)]


def test_few_tokens_cannot_tell_and_leave_the_row_its_verdict() -> None:
    made = scores(7, num=16)
    outputs = [Output(s, record(s.request_id, hit=i == 0)) for i, s in enumerate(made)]
    found = affected.populations(outputs, BF16, drafting=False)
    assert by_name(found)[CACHED].verdict == "CANNOT TELL"
    assert affected.joined(judge(made, ()), found).verdict == "PASS"


def test_nothing_is_affected_where_nothing_was_reused_or_drafted() -> None:
    outputs = [Output(s, record(s.request_id, every=3)) for s in scores(8)]
    assert affected.populations(outputs, BF16, drafting=False) == ()


def test_all_but_the_last_token_of_a_verification_are_the_drafts() -> None:
    (score,) = scores(9, num=1, length=8)
    told = Output(score, RequestRecord(request_id="r0", runs=((1, 3), (5, 2))))
    assert affected.drafted(told).tolist() == [False, True, True, False, False, True, False, False]
    lump = Output(score, RequestRecord(request_id="r0", runs=((0, 64),)))
    assert not affected.drafted(lump).any()
    alone = Output(score, RequestRecord(request_id="r0", accepted_len=2))
    assert affected.drafted(alone).all()


def test_a_turns_prompt_carries_what_was_said_before() -> None:
    turns = [Request(request_id=f"t{i}", max_tokens=2, prompt_token_ids=(i,), session="s") for i in range(3)]
    said = {f"t{i}": RequestRecord(request_id=f"t{i}", output_token_ids=(10 + i,)) for i in range(3)}
    whole = affected.conversations(turns, said)
    assert whole["t2"].prompt_token_ids == (0, 10, 1, 11, 2)
    assert affected.turns(turns) == {"t0": 1, "t1": 2, "t2": 3}
    single = Request(request_id="x", max_tokens=1, prompt_token_ids=(7,))
    assert affected.conversations([single], {})["x"].prompt_token_ids == (7,)
