"""Two engines of one precision that lie unlike far from the reference: the farther one is no PASS."""

import msgspec

from harness.correctness.floors import DEFAULT_FLOORS
from harness.correctness.peers import compared
from harness.schema import Agreement, Interval, Row

FLOAT32 = DEFAULT_FLOORS["float32"]
SAME = {"near": "bfloat16 none auto", "far": "bfloat16 none auto", "other": "bfloat16 none fp8_e4m3"}


def row(variant: str, distance: float, statistic: str = "noise_ratio", verdict: str = "PASS") -> Row:
    shown = {statistic: Interval(mean=distance, low=distance, high=distance, num=16)}
    agreement = Agreement(verdict=verdict, reference="oracle", statistics=shown)  # type: ignore[arg-type]
    return Row(variant=variant, scenario="s", status="done", agreement=agreement)


def verdicts(*rows: Row) -> list[str]:
    return [r.agreement.verdict for r in compared(rows, SAME) if r.agreement]


def test_a_factor_of_three_is_no_pass_and_both_are_named() -> None:
    doubted = compared([row("near", 0.4), row("far", 1.3)], SAME)
    assert [r.agreement.verdict for r in doubted if r.agreement] == ["PASS", "CANNOT TELL"]
    assert doubted[1].agreement is not None
    assert doubted[1].agreement.reason.startswith("far is 3.2 x as far from the reference as near, which")


def test_like_distances_other_precisions_and_failed_rows_doubt_nothing() -> None:
    assert verdicts(row("near", 0.5), row("far", 1.2)) == ["PASS", "PASS"]
    assert verdicts(row("near", 0.4), row("other", 1.3)) == ["PASS", "PASS"]
    assert verdicts(row("near", 0.4, verdict="FAIL"), row("far", 1.3)) == ["FAIL", "PASS"]
    assert verdicts(row("near", 0.4, "mean_abs_dlogprob"), row("far", 1.3)) == ["PASS", "PASS"]
    assert verdicts(row("near", 0.01, "mean_abs_dlogprob"), row("far", 0.04, "mean_abs_dlogprob")) == [
        "PASS",
        "CANNOT TELL",
    ]


def test_two_that_are_nearer_than_healthy_output_has_to_be_doubt_nothing() -> None:
    single = [row("near", 1.0e-6, "mean_abs_dlogprob"), row("far", 3.5e-6, "mean_abs_dlogprob")]
    floored = [
        msgspec.structs.replace(r, agreement=msgspec.structs.replace(r.agreement, floor=FLOAT32))
        for r in single
        if r.agreement
    ]
    assert verdicts(*single) == ["PASS", "CANNOT TELL"] and verdicts(*floored) == ["PASS", "PASS"]
