"""Statistics of scored tokens against hand-made values."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from harness.correctness import divergence
from harness.schema import Score


def score(
    margin: tuple[float, ...], dlogprob: tuple[float, ...] | None, request_id: str = "r", error: str = ""
) -> Score:
    logprob = (-1.0,) * len(margin)
    emitted = None if dlogprob is None else tuple(-1.0 + d for d in dlogprob)
    return Score(
        request_id=request_id,
        reference="oracle",
        token_ids=tuple(range(len(margin))),
        logprob=logprob,
        rank=tuple(1 + (m > 0) for m in margin),
        margin=margin,
        emitted_logprob=emitted,
        error=error,
    )


LONG = score((0.0, 0.02, 0.5, 20.0), (0.01, -0.01, 0.3, -0.02))
SHORT = score((0.0, 0.0), (0.01, 0.03), "s")


def test_tokens_know_their_request_and_position_and_are_capped() -> None:
    tokens = divergence.tokens_of([LONG, score((9.0,), None, error="gone"), SHORT])
    assert tokens.request.tolist() == [0, 0, 0, 0, 1, 1]
    assert tokens.position.tolist() == [0, 1, 2, 3, 0, 1]
    assert tokens.margin.tolist() == [0.0, 0.02, 0.5, divergence.CAP_NATS, 0.0, 0.0]
    assert tokens.where(tokens.position > 1).margin.tolist() == [0.5, divergence.CAP_NATS]


def test_outputs_of_one_prompt_in_several_restarts_are_one_request_and_copies_are_no_evidence() -> None:
    again = msgspec.structs.replace(LONG, token_ids=(0, 1, 2, 9))
    assert divergence.distinct([LONG, SHORT, LONG, again]) == [LONG, SHORT, again]
    assert divergence.tokens_of([LONG, SHORT, again]).request.tolist() == [0] * 4 + [1] * 2 + [0] * 4


def test_tokens_that_are_certain_under_any_model_count_for_little() -> None:
    looped = msgspec.structs.replace(LONG, logprob=(-1.0, -1e-4, -1e-4, -1e-4))
    assert divergence.tokens_of([LONG]).effective == pytest.approx(4.0)
    assert divergence.tokens_of([looped]).effective == pytest.approx(1.0, abs=0.01)


def test_pooled_statistics_are_over_tokens_not_over_requests() -> None:
    sums = divergence.sums(divergence.tokens_of([LONG, SHORT]), outlier=0.2)
    pooled = {name: divergence.pooled(s) for name, s in sums.items()}
    assert pooled == pytest.approx(
        {
            "mean_abs_dlogprob": 0.38 / 6,
            "outlier_share": 1 / 6,
            "mismatch_share": 3 / 6,
            "gross_share": 2 / 6,
            "mean_margin": 10.52 / 6,
        }
    )
    assert ("noise_ratio", "margin_ratio", *sums, "mean_kl") == divergence.STATISTICS


def exact_kl(p: np.ndarray, q: np.ndarray) -> float:
    return float(np.sum(p * np.log(p / q)))


def best(p: np.ndarray, num: int) -> dict[int, float]:
    """The `num` best (id, logprob) of a distribution."""
    return {int(i): float(np.log(p[i])) for i in np.argsort(-p)[:num]}


@pytest.mark.parametrize("seed", range(5))
def test_kl_of_whole_distributions_is_exact_and_of_shared_ones_a_lower_bound(seed: int) -> None:
    draw = np.random.default_rng(seed)
    p = draw.dirichlet(np.full(12, 0.3)) * 0.999 + 0.001 / 12
    q = np.exp(np.log(p) + draw.normal(0, 0.5, 12))
    q /= q.sum()
    exact = exact_kl(p, q)
    whole, outside = divergence.shared_kl(best(p, 12), best(q, 12))
    assert (whole, outside) == (pytest.approx(exact, rel=1e-5), pytest.approx(0.0, abs=1e-8))
    found = [divergence.shared_kl(best(p, k), best(q, k)) for k in range(1, 12)]
    assert all(0.0 <= kl <= exact + 1e-9 for kl, _ in found)
    assert found[10][0] > 0.5 * exact
    shared = best(p, 4).keys() & best(q, 4).keys()
    assert found[3][1] == pytest.approx(1 - sum(p[i] for i in shared))


def test_kl_by_hand() -> None:
    """p = (1/2, 1/4, rest 1/4), q = (1/4, 1/4, rest 1/2): ln 2 / 2 - ln 2 / 4."""
    p, q = {1: np.log(0.5), 2: np.log(0.25)}, {1: np.log(0.25), 2: np.log(0.25), 9: np.log(0.3)}
    assert divergence.shared_kl(p, q) == (pytest.approx(np.log(2) / 4), pytest.approx(0.25))
    assert divergence.shared_kl(p, p) == (pytest.approx(0.0), pytest.approx(0.25))
    assert divergence.shared_kl(p, {7: -1.0}) == (pytest.approx(0.0), pytest.approx(1.0))


def test_kl_needs_both_sides_for_every_token() -> None:
    row = {1: -0.1, 2: -3.0}
    both = msgspec.structs.replace(SHORT, top_logprobs=(row, row), emitted_top_logprobs=(row, row))
    tokens = divergence.tokens_of([both, LONG])
    assert np.isnan(tokens.kl).tolist() == [False, False, True, True, True, True]
    assert divergence.sums(tokens, 0.2)["mean_kl"].shape == (2, 1)
    missing = msgspec.structs.replace(both, emitted_top_logprobs=(row,))
    assert "mean_kl" not in divergence.sums(divergence.tokens_of([missing]), 0.2)


def test_a_request_without_logprobs_counts_for_margins_only() -> None:
    sums = divergence.sums(divergence.tokens_of([LONG, score((0.0, 0.0), None, "other")]), outlier=0.2)
    assert sums["mean_abs_dlogprob"].shape == (2, 1)
    assert sums["mean_margin"].shape == (2, 2)
    assert "outlier_share" not in divergence.sums(divergence.tokens_of([score((0.0,), None)]), 0.2)


def test_noise_is_the_median_and_outliers_follow_it() -> None:
    assert divergence.noise(divergence.tokens_of([LONG])) == pytest.approx(0.015)
    assert divergence.noise(divergence.tokens_of([score((0.0,), None)])) is None
    assert divergence.outlier_nats(0.01) == pytest.approx(0.15)
    assert divergence.outlier_nats(1e-6) == divergence.MIN_OUTLIER_NATS


def test_the_interval_holds_the_truth_and_widens_with_fewer_requests() -> None:
    draw = np.random.default_rng(3)
    many = [score((0.0,) * 20, tuple(draw.normal(0, 0.01, 20)), str(i)) for i in range(64)]

    def width(scores: list[Score]) -> float:
        found = divergence.interval(
            divergence.sums(divergence.tokens_of(scores), 0.2)["mean_abs_dlogprob"], 0.99, 0
        )
        assert found.num == len(scores)
        assert found.low < 0.00798 < found.high
        return found.high - found.low

    assert width(many[:8]) > 1.5 * width(many)


def test_nothing_scored_is_no_tokens() -> None:
    tokens = divergence.tokens_of([])
    assert len(tokens.margin) == 0
    assert divergence.sums(tokens, 0.2) == {}
