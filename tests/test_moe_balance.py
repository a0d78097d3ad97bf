"""Balance statistics against values worked out by hand, and against properties."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.moe import balance, routing_log
from harness.moe.routing_log import RoutingLog
from tests import moe_logs


@pytest.mark.parametrize(
    ("loads", "ratio", "gini", "entropy"),
    [
        ([5, 5, 5, 5], 1.0, 0.0, 1.0),
        ([20, 0, 0, 0], 4.0, 0.75, 0.0),
        ([10, 10, 0, 0], 2.0, 0.5, 0.5),
        ([1, 2, 3, 4], 1.6, 0.25, 0.92322),
        ([0, 0, 0, 0], 0.0, 0.0, 0.0),
    ],
)
def test_known_values(loads: list[int], ratio: float, gini: float, entropy: float) -> None:
    array = np.array(loads)
    assert balance.max_over_mean(array) == pytest.approx(ratio)
    assert balance.gini(array) == pytest.approx(gini)
    assert balance.entropy(array) == pytest.approx(entropy, abs=1e-4)


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=64))
def test_bounds_and_order_do_not_matter(loads: list[int]) -> None:
    array, mirrored = np.array(loads), np.array(loads[::-1])
    assert -1e-12 <= balance.gini(array) <= 1 - 1 / len(loads) + 1e-12
    assert -1e-12 <= balance.entropy(array) <= 1 + 1e-12
    assert balance.gini(array) == pytest.approx(balance.gini(mirrored))
    assert balance.entropy(array) == pytest.approx(balance.entropy(mirrored))


def test_hot_experts_hottest_first() -> None:
    assert balance.hot_experts(np.array([1, 30, 1, 20, 1, 1, 1, 1])) == (1, 3)
    assert balance.hot_experts(np.array([0, 0])) == ()


def small(tmp_path: Path) -> RoutingLog:
    """Two prefill tokens and one decode token over 8 experts."""
    blocks = [
        moe_logs.block(1, 0, [("a", 0, 2, 2)], [[0, 1], [0, 7]]),
        moe_logs.block(2, 0, [("a", 2, 1, 2)], [[4, 5]]),
    ]
    return routing_log.read([str(moe_logs.write(tmp_path / "log.jsonl", blocks))])


def test_a_token_counts_once_per_rank(tmp_path: Path) -> None:
    log = small(tmp_path)
    assert balance.rank_tokens(log, 0, 2).tolist() == [2, 2]  # token 0 left, token 1 both, token 2 right
    assert balance.rank_tokens(log, 0, 4).tolist() == [2, 0, 1, 1]
    assert balance.rank_tokens(log, 0, 8).tolist() == balance.counts(log, 0).tolist()
    with pytest.raises(ValueError, match="do not split"):
        balance.rank_tokens(log, 0, 3)


def test_phases_are_separate(tmp_path: Path) -> None:
    every, prefill, decode = (balance.layer_balance(small(tmp_path), 0, phase) for phase in balance.PHASES)
    assert (every.num_tokens, prefill.num_tokens, decode.num_tokens) == (3, 2, 1)
    assert prefill.counts == (2, 1, 0, 0, 0, 0, 0, 1)
    assert decode.counts == (0, 0, 0, 0, 1, 1, 0, 0)
    assert set(every.rank_max_over_mean) == {"2", "4", "8"}


def test_cooccurrence_is_lift(tmp_path: Path) -> None:
    lift = balance.cooccurrence(small(tmp_path), 0)
    assert lift[0, 1] == pytest.approx((1 / 3) / (2 / 3 * 1 / 3))
    assert lift[4, 5] == pytest.approx(3.0)
    assert lift[0, 4] == 0.0
    assert np.isnan(lift[0, 0]) and np.isnan(lift[2, 3])


def test_drift_rows_are_shares_in_order_of_step(tmp_path: Path) -> None:
    shares = balance.drift(small(tmp_path), 0, windows=3)
    assert shares.shape == (3, 8)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    assert shares[2].tolist() == [0, 0, 0, 0, 0.5, 0.5, 0, 0]


def test_commonest_set(tmp_path: Path) -> None:
    blocks = [moe_logs.block(1, 0, [("a", 0, 4, 4)], [[1, 2], [2, 1], [1, 2], [3, 4]])]
    log = routing_log.read([str(moe_logs.write(tmp_path / "log.jsonl", blocks))])
    assert balance.commonest_set(log, 0) == ((1, 2), 0.75)
    assert balance.commonest_set(log, 9) == ((), 0.0)
