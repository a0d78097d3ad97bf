"""Verdicts on outputs whose faults are known, made from seeded noise."""

from __future__ import annotations

import json
from typing import NamedTuple

import msgspec
import numpy as np
import pytest

from harness.correctness.agreement import judge
from harness.correctness.floors import DEFAULT_FLOORS, MULTIPLES, JudgeSettings
from harness.schema import RequestRecord, Score


class Fault(NamedTuple):
    """A share of the tokens from a position on is garbage; logprobs are off `noise` x as much as they should,
    and those of a share `struck` of the tokens by 0.3 nats."""

    share: float = 0.0
    first: int = 0
    noise: float = 1.0
    struck: float = 0.0


HEALTHY = Fault()


def scores(seed: int, fault: Fault = HEALTHY, num: int = 16, length: int = 64) -> list[Score]:
    """bf16-like output: now and then a near tie, logprobs off by 0.011 in the mean."""
    draw = np.random.default_rng(seed)
    result = []
    for i in range(num):
        garbage = (draw.random(length) < fault.share) & (np.arange(length) >= fault.first)
        near_tie = draw.random(length) < 0.01
        margin = np.where(garbage, draw.exponential(3.0, length) + 0.3, np.where(near_tie, 0.03, 0.0))
        logprob = -draw.exponential(1.0, length) - margin
        dlogprob = draw.normal(0, 0.014 * fault.noise, length) + np.where(garbage, 1.0, 0.0)
        dlogprob += np.where(draw.random(length) < 0.005 + fault.struck, 0.3, 0.0)
        result.append(
            Score(
                request_id=f"r{i}",
                reference="oracle",
                token_ids=tuple(range(length)),
                logprob=tuple(logprob.tolist()),
                rank=tuple(int(m > 0) + 1 for m in margin),
                margin=tuple(margin.tolist()),
                emitted_logprob=tuple((logprob + dlogprob).tolist()),
            )
        )
    return result


@pytest.mark.parametrize("seed", range(20))
def test_healthy_output_passes_against_a_measured_floor(seed: int) -> None:
    agreement = judge(scores(seed), (), scores(seed + 100))
    assert (agreement.verdict, agreement.reason) == ("PASS", "")
    assert agreement.num_tokens == 1024
    assert agreement.token_match is not None and agreement.token_match > 0.97
    assert "the reference's own output, 1024 tokens" in agreement.floor_source
    assert all(agreement.floor[n] >= DEFAULT_FLOORS["bfloat16"][n] for n in MULTIPLES)


@pytest.mark.parametrize("seed", range(5))
def test_healthy_output_passes_against_the_default_floor(seed: int) -> None:
    agreement = judge(scores(seed), ())
    assert agreement.verdict == "PASS"
    assert agreement.floor_source == "default for bfloat16, not measured on this model"


def test_garbage_fails_and_the_reason_names_statistic_and_floor() -> None:
    agreement = judge(scores(1, Fault(share=0.3)), (), scores(2))
    assert agreement.verdict == "FAIL"
    assert "x the floor" in agreement.reason
    assert agreement.statistics["mean_margin"].low > agreement.thresholds["mean_margin"]


def test_one_bad_request_of_many_fails() -> None:
    mixed = [*scores(1, num=15), *(s for s in scores(3, Fault(share=0.5), num=1))]
    agreement = judge(mixed, (), scores(2))
    assert agreement.verdict == "FAIL"
    assert "1 of 16 requests diverge grossly" in agreement.reason


def test_a_late_collapse_is_placed() -> None:
    agreement = judge(scores(1, Fault(share=0.05, first=512), length=1024), (), scores(2, length=1024))
    assert agreement.verdict == "FAIL"
    assert agreement.first_bad_position == 512


def test_logprobs_off_everywhere_pass_as_far_as_quantisation_goes() -> None:
    floor, eight_bit = scores(2, length=256), JudgeSettings(eight_bit=True)
    noisy = scores(1, Fault(noise=4.0), length=256)
    assert judge(noisy, (), floor, eight_bit).verdict == "PASS", "8-bit keys and values are attested"
    for output, settings in ((noisy, JudgeSettings()), (scores(1, Fault(noise=10.0), length=256), eight_bit)):
        agreement = judge(output, (), floor, settings)
        assert agreement.verdict == "FAIL"
        assert agreement.reason.startswith("mean_abs_dlogprob")


def test_a_statistic_beyond_its_limit_never_passes_even_where_that_may_be_luck() -> None:
    verdicts = set()
    for seed in range(12):
        found = judge(scores(seed, Fault(noise=2.75), num=6, length=64), ())
        if found.statistics["mean_abs_dlogprob"].mean > 1.03 * found.thresholds["mean_abs_dlogprob"]:
            verdicts.add(found.verdict)
    assert verdicts and "PASS" not in verdicts


def test_logprobs_off_at_some_tokens_fail_though_the_mean_hardly_moves() -> None:
    agreement = judge(scores(1, Fault(struck=0.02), length=256), (), scores(2, length=256))
    assert agreement.verdict == "FAIL"
    assert agreement.reason.startswith("outlier_share")
    assert agreement.statistics["mean_abs_dlogprob"].mean < 2 * agreement.floor["mean_abs_dlogprob"]


def test_a_broken_reference_does_not_excuse_a_broken_engine() -> None:
    agreement = judge(scores(1, Fault(share=0.3)), (), scores(2, Fault(share=0.3)))
    assert agreement.verdict == "FAIL"
    assert "the reference is noisier than that" in agreement.floor_source


@pytest.mark.parametrize(
    "dtypes", [("bfloat16", "float32"), ("float32", "bfloat16"), ("bfloat16", "bfloat16")]
)
def test_a_reference_that_repeats_itself_bit_by_bit_lowers_no_floor(dtypes: tuple[str, str]) -> None:
    """One of the two computes in bfloat16: that is the noise, whatever the reference says of itself."""
    settings = JudgeSettings(dtype=dtypes[0], reference_dtype=dtypes[1])
    exact = [msgspec.structs.replace(s, emitted_logprob=s.logprob) for s in scores(2, Fault(noise=0.0))]
    agreement = judge(scores(1), (), exact, settings)
    assert agreement.verdict == "PASS"
    assert agreement.floor["mean_abs_dlogprob"] == DEFAULT_FLOORS["bfloat16"]["mean_abs_dlogprob"]
    assert agreement.floor_source.startswith("default for bfloat16, which the reference's own output")


def test_a_reference_noisier_than_the_default_raises_the_floor() -> None:
    agreement = judge(scores(1), (), scores(2, Fault(noise=3.0)))
    assert agreement.floor["mean_abs_dlogprob"] > 2 * DEFAULT_FLOORS["bfloat16"]["mean_abs_dlogprob"]
    assert agreement.floor_source.startswith("measured on the reference's own output, 1024 tokens (mean_abs")


def test_an_unknown_dtype_is_judged_as_bfloat16() -> None:
    agreement = judge(scores(1), (), settings=JudgeSettings(dtype="", reference_dtype=""))
    assert agreement.floor_source == "default for bfloat16, not measured on this model"


def test_too_few_tokens_cannot_tell() -> None:
    agreement = judge(scores(1, num=3, length=8), ())
    assert agreement.verdict == "CANNOT TELL"
    assert agreement.reason.startswith("only 24 tokens of 3 requests were scored")


@pytest.mark.parametrize("given", [None, (-0.5,) * 63, (0.0,) * 64], ids=["none", "too few", "processed"])
def test_without_usable_logprobs_the_margins_still_judge(given: tuple[float, ...] | None) -> None:
    bare = [msgspec.structs.replace(s, emitted_logprob=given) for s in scores(1)]
    agreement = judge(bare, (), bare)
    assert agreement.verdict == "PASS"
    assert agreement.mean_abs_dlogprob is None
    assert "mean_abs_dlogprob" not in agreement.statistics


def test_an_unscored_trial_cannot_tell_and_says_why() -> None:
    lost = [
        Score(
            request_id="r", reference="oracle", token_ids=(1,), logprob=(), rank=(), margin=(), error="gone"
        )
    ]
    agreement = judge(lost, ())
    assert (agreement.verdict, agreement.reason) == ("CANNOT TELL", "1 of 1 requests not scored: gone")


def test_text_that_nobody_replayed_can_fail_and_cannot_pass() -> None:
    def said(text: str) -> list[RequestRecord]:
        return [RequestRecord(request_id=str(i), text=text * 64, output_len=64) for i in range(9)]

    looked_at = judge((), said("\ufffd\ue000"))
    assert looked_at.verdict == "" and "unreadable" in " ".join(looked_at.alarms)
    nan = [RequestRecord(request_id="n", error="a logprob is NaN", error_kind="engine")]
    assert judge((), [*said("plain words"), *nan]).verdict == "FAIL"


def test_a_reference_lost_half_way_cannot_tell_but_a_fault_seen_before_fails() -> None:
    lost = Score(
        request_id="x", reference="oracle", token_ids=(1,), logprob=(), rank=(), margin=(), error="gone"
    )
    assert judge([*scores(1, num=8), *[lost] * 8], ()).reason == "8 of 16 requests not scored: gone"
    assert judge([*scores(1, Fault(share=0.5), num=8), *[lost] * 8], ()).verdict == "FAIL"


def test_text_that_collapses_more_often_than_the_references_own_fails_without_any_score() -> None:
    loop = [RequestRecord(request_id=f"r{i}", text="no no " * 99, output_len=200) for i in range(16)]
    fine = [RequestRecord(request_id=f"r{i}", text=json.__doc__ or "", output_len=200) for i in range(16)]
    agreement = judge([], loop, floor_records=fine)
    assert agreement.verdict == "FAIL"
    assert agreement.reason == "repetition in 16 of 16 outputs, in 0 of 16 healthy ones"
    assert judge([], loop, floor_records=loop).verdict == ""
    assert judge([], loop).alarms[0].startswith("repetition in 16 of 16 outputs")


def test_ids_made_from_text_are_left_out_where_the_others_are_enough() -> None:
    made = [
        msgspec.structs.replace(s, retokenised=True, request_id="t")
        for s in scores(3, Fault(share=0.3), num=1)
    ]
    agreement = judge([*scores(1), *made], ())
    assert agreement.verdict == "PASS"
    assert agreement.alarms == ("1 outputs without token ids are left out of the verdict",)
    wrong = judge([*scores(1, Fault(share=0.3)), *made], ())
    assert wrong.verdict == "FAIL"


def test_outputs_that_end_too_early_are_told() -> None:
    short = [
        RequestRecord(request_id=f"r{i}", text="a b", output_len=2, finish_reason="stop") for i in range(4)
    ]
    expected = JudgeSettings(expected_len={"r0": 9, "r1": 9, "r2": 2})
    agreement = judge(scores(1), short, settings=expected)
    assert agreement.alarms == ("premature end in 2 of 4 outputs (finish reasons: stop 2)",)


@pytest.mark.parametrize(
    ("dtype", "nats"), [("float16", 0.0017), ("tensorfloat32", 0.0004), ("float32", 1e-6)]
)
def test_each_dtype_passes_at_its_measured_noise_and_fails_at_that_of_bfloat16(
    dtype: str, nats: float
) -> None:
    settings = JudgeSettings(dtype=dtype)
    fine = scores(1, Fault(noise=nats / 0.0112), length=256)
    quiet = [
        msgspec.structs.replace(
            s,
            emitted_logprob=tuple(
                r + max(-3 * nats, min(3 * nats, e - r))
                for e, r in zip(s.emitted_logprob or (), s.logprob, strict=True)
            ),
            margin=(0.0,) * 256,
        )
        for s in fine
    ]
    assert judge(quiet, (), settings=settings).verdict == "PASS"
    assert judge(scores(1, length=256), (), settings=settings).verdict == "FAIL"


def test_logprobs_that_are_no_numbers_fail() -> None:
    record = RequestRecord(request_id="r0", text="fine", output_len=1, output_logprobs=(float("nan"),))
    assert judge(scores(1), [record]).verdict == "FAIL"
    refused = RequestRecord(request_id="r0", error_kind="engine", error="a logprob is NaN")
    assert judge(scores(1), [refused]).reason == "1 of 1 outputs have logprobs that are not numbers"


def test_retokenised_output_is_not_failed_on_its_margins() -> None:
    bad = [msgspec.structs.replace(s, retokenised=True) for s in scores(1, Fault(share=0.3))]
    agreement = judge(bad, ())
    assert agreement.verdict == "CANNOT TELL"
    assert "re-tokenised" in agreement.reason
