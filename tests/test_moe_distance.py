"""Jensen-Shannon distance, its interval and its floor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from harness.errors import InputError
from harness.moe import distance, routing_log
from tests import moe_logs


def test_equals_scipys() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        p, q = random.integers(0, 50, 16) + 1, random.integers(0, 50, 16)
        assert distance.distance(p, q) == pytest.approx(jensenshannon(p, q, base=2))


def test_ends_of_the_scale() -> None:
    p, q, none = np.array([3, 0]), np.array([0, 5]), np.array([0, 0])
    assert distance.distance(p, p) == 0.0
    assert distance.distance(p, q) == pytest.approx(1.0)
    assert distance.distance(p, none) == 1.0


def test_two_logs_of_one_source_do_not_differ(tmp_path: Path) -> None:
    a = routing_log.read([str(moe_logs.random_log(tmp_path / "a.jsonl", 40, seed=1))])
    b = routing_log.read([str(moe_logs.random_log(tmp_path / "b.jsonl", 40, seed=2))])
    for found in distance.compare(a, b):
        assert found.distance < 1.5 * found.floor
        assert found.num_requests == (40, 40)


def test_a_favoured_expert_is_seen(tmp_path: Path) -> None:
    a = routing_log.read([str(moe_logs.random_log(tmp_path / "a.jsonl", 40, seed=1))])
    b = routing_log.read([str(moe_logs.random_log(tmp_path / "b.jsonl", 40, seed=2, favour=1.0))])
    for found in distance.compare(a, b):
        assert found.differs and found.low > found.floor
        assert found.low <= found.distance <= found.high


def test_a_log_does_not_differ_from_itself(tmp_path: Path) -> None:
    a = routing_log.read([str(moe_logs.random_log(tmp_path / "a.jsonl", 20, seed=1))])
    for found in distance.compare(a, a):
        assert (found.distance, found.low) == (0.0, 0.0) and 0.0 < found.high < found.floor


def test_the_seed_fixes_the_interval(tmp_path: Path) -> None:
    a = routing_log.read([str(moe_logs.random_log(tmp_path / "a.jsonl", 10, seed=1))])
    b = routing_log.read([str(moe_logs.random_log(tmp_path / "b.jsonl", 10, seed=2))])
    assert distance.compare(a, b, "decode") == distance.compare(a, b, "decode")
    assert distance.compare(a, b, "decode") != distance.compare(a, b, "decode", seed=1)


def test_logs_that_cannot_be_compared(tmp_path: Path) -> None:
    a = routing_log.read([str(moe_logs.random_log(tmp_path / "a.jsonl", 2, seed=1))])
    other = [moe_logs.block(1, 5, [("a", 0, 1, 1)], [[0, 1]])]
    b = routing_log.read([str(moe_logs.write(tmp_path / "b.jsonl", other))])
    with pytest.raises(InputError, match="no layer is in both"):
        distance.compare(a, b)
