"""The error budget: fields that hold, and saturation that is said."""

from __future__ import annotations

import msgspec
import pytest

from harness.client import selfcheck
from harness.client.window import ClientStats
from harness.errors import InputError


def test_budget_of_a_small_load() -> None:
    budget = selfcheck.run(None, 4)
    assert budget.num_failed == 0 and 0 < budget.cpu_share < 1 and budget.tokens_per_s > 100
    assert budget.ttft_error_p50_s < 0.02 and 0 <= budget.icl_error_p50_s < 0.01
    assert "TTFT" in budget.words and "CPU" in budget.words


def test_open_loop_states_lateness() -> None:
    budget = selfcheck.run(50, None)
    assert 0 < budget.late_p50_s < 0.02 and budget.load.request_rate == 50


def stats(cpu_s: float, late_s: float) -> ClientStats:
    return ClientStats(
        started_at="", duration_s=10, cpu_s=cpu_s, num_in_flight_max=1, num_connections=1, late_p99_s=late_s
    )


def test_client_bound_says_why() -> None:
    assert stats(1, 0.001).client_bound == ""
    assert "90%" in stats(9, 0.001).client_bound
    assert "50 ms late" in stats(1, 0.05).client_bound
    stopped = msgspec.structs.replace(stats(1, 0.001), stood_still_s=5.0)
    assert "did nothing for 5.0 s" in stopped.client_bound


@pytest.mark.parametrize(
    "word", ["rate", "speed=3", "rate=fast", "workers=0", "workers=1.5", "concurrency=0.5"]
)
def test_bad_words(word: str) -> None:
    with pytest.raises(InputError, match="selfcheck"):
        selfcheck.from_words([word])


def test_words() -> None:
    (budget,) = selfcheck.from_words(["concurrency=2", "workers=2"])
    assert budget.load.max_concurrency == 2 and budget.num_workers == 2
