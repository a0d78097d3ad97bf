"""Restarts of one variant against each other, by hand and in verdicts."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from harness.correctness import divergence, self_noise
from harness.correctness.agreement import judge
from harness.correctness.floors import DEFAULT_FLOORS, FLOOR_CAP
from harness.schema import Score
from tests.test_agreement import Fault, scores


def said(ids: tuple[int, ...], margin: tuple[float, ...], logprob: tuple[float, ...] | None) -> Score:
    return Score(
        request_id="r",
        reference="oracle",
        token_ids=ids,
        logprob=(-1.0,) * len(ids),
        rank=(1,) * len(ids),
        margin=margin,
        emitted_logprob=logprob,
    )


LEN = 100
FIRST = said((*range(LEN),), (0.0,) * LEN, (-0.5,) * LEN)
FORKED = said(
    (*range(60), 7, *range(900, 939)), (*(0.0,) * 60, 0.3, *(4.0,) * 39), (*(-0.52,) * 60, *(-3.0,) * 40)
)


def pooled(*found: Score) -> dict[str, float]:
    copies = [msgspec.structs.replace(s, request_id=f"r{i}") for i in range(8) for s in found]
    sums = self_noise.sums(copies, outlier=0.2)
    assert all(s.shape == (2, 8) for s in sums.values())
    return {name: divergence.pooled(s) for name, s in sums.items()}


def test_tokens_are_compared_up_to_and_with_the_first_fork() -> None:
    found = pooled(FIRST, FORKED)
    assert found["mismatch_share"] == found["gross_share"] == pytest.approx(1 / 61)
    assert found["mean_margin"] == pytest.approx(0.3 / 61)
    assert found["mean_abs_dlogprob"] == pytest.approx(0.02)


def test_equal_restarts_have_no_noise_and_every_pair_counts() -> None:
    assert pooled(FIRST, FIRST) == {"mean_abs_dlogprob": 0.0, "mean_margin": 0.0}
    three = pooled(FIRST, FIRST, FORKED)
    assert three["mismatch_share"] == pytest.approx(2 / (100 + 61 + 61))


def test_without_logprobs_the_margins_are_compared_alone() -> None:
    bare = [msgspec.structs.replace(s, emitted_logprob=None) for s in (FIRST, FORKED)]
    assert set(pooled(*bare)) == {"mismatch_share", "gross_share", "mean_margin"}


def test_top_logprobs_give_a_kl_between_restarts() -> None:
    row, other = {1: np.log(0.5), 2: np.log(0.25)}, {1: np.log(0.25), 2: np.log(0.25)}
    one, two = (msgspec.structs.replace(FIRST, emitted_top_logprobs=(r,) * LEN) for r in (row, other))
    assert pooled(one, two)["mean_kl"] > 0.1


def test_one_restart_or_few_tokens_say_nothing() -> None:
    assert self_noise.sums([FIRST], 0.2) == {}
    assert self_noise.sums([FIRST, FORKED], 0.2) == {}
    failed = msgspec.structs.replace(FORKED, error="gone")
    assert self_noise.restarts([FIRST, failed]) == []


def test_noise_between_restarts_raises_the_floor_and_is_told() -> None:
    """Twice the same tokens whose logprobs moved by 0.03: noisier than the reference's own output."""
    one = scores(1, length=256)
    moved = [
        msgspec.structs.replace(
            s, emitted_logprob=tuple(e + 0.03 * (-1) ** i for i, e in enumerate(s.emitted_logprob or ()))
        )
        for s in one
    ]
    alone, twice = judge(one, (), scores(2, length=256)), judge([*one, *moved], (), scores(2, length=256))
    assert alone.self_noise == {}
    assert twice.self_noise["mean_abs_dlogprob"] == pytest.approx(0.03)
    assert twice.floor["mean_abs_dlogprob"] == pytest.approx(0.03)
    assert twice.thresholds["mean_abs_dlogprob"] == pytest.approx(2.5 * 0.03)
    assert "mean_abs_dlogprob raised to the variant's own noise between restarts" in twice.floor_source
    assert twice.verdict == "PASS"


def test_restarts_that_agree_on_what_is_wrong_lower_nothing() -> None:
    bad = scores(1, Fault(share=0.3))
    found = judge([*bad, *bad], (), scores(2))
    assert found.verdict == "FAIL"
    assert found.self_noise["mean_margin"] == 0.0
    assert "raised" not in found.floor_source


def test_an_erratic_engine_does_not_excuse_itself() -> None:
    found = judge([*scores(1, Fault(share=0.4)), *_forking(scores(1, Fault(share=0.4)))], ())
    assert found.verdict == "FAIL"
    assert found.floor["mean_margin"] == pytest.approx(FLOOR_CAP * DEFAULT_FLOORS["bfloat16"]["mean_margin"])


def _forking(found: list[Score]) -> list[Score]:
    """The same, with another token of margin 5 at position 30."""
    return [
        msgspec.structs.replace(
            s,
            token_ids=(*s.token_ids[:30], 9999, *s.token_ids[31:]),
            margin=(*s.margin[:30], 5.0, *s.margin[31:]),
        )
        for s in found
    ]
