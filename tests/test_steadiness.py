"""What must be steady for a comparison to mean anything: warm engines, an even host, enough restarts."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from harness.host.calibration import calibrate, drift
from harness.numbers.columns import columns
from harness.numbers.stopping import enough
from harness.numbers.warmup import cold
from harness.schema import Calibration, Comparison, Contrast, GpuSample, Interval, RequestRecord
from tests.examples import row


def requests(tpots: list[float]) -> list[RequestRecord]:
    return [
        RequestRecord(
            request_id=str(i), sent_at_s=float(i), content_at_s=(i + 0.1, i + 0.1 + 9 * t), output_len=10
        )
        for i, t in enumerate(tpots)
    ]


def noisy(num: int, mean: float, seed: int = 0) -> list[float]:
    return list(np.random.default_rng(seed).normal(mean, mean * 0.1, num))


def test_a_slower_first_half_is_cold() -> None:
    table = columns(requests(noisy(30, 0.020) + noisy(30, 0.010)))
    assert "the first half was slower: TPOT 1.96x" in cold([], table, 4)


@pytest.mark.parametrize(
    "tpots",
    [
        noisy(60, 0.01),
        noisy(30, 0.01) + noisy(30, 0.02),  # slower later: load, not warm-up
        noisy(30, 0.0105) + noisy(30, 0.01),
        noisy(4, 0.1) + noisy(4, 0.01),  # too few to tell
        noisy(4, 0.1) + noisy(56, 0.01),  # the opening burst, left out at concurrency 4
    ],
)
def test_what_is_not_cold(tpots: list[float]) -> None:
    assert cold(["INFO: POST /v1/completions 200"], columns(requests(tpots)), 4) == ""


@pytest.mark.parametrize(
    "line",
    [
        "INFO torch.compile takes 12.3 s in total",
        "Capturing CUDA graph shapes:  40%",
        "[aiter] start build [module_moe_sorting]",
        "Entering DeepGEMM JIT Pre-Compile session",
        "Autotuning kernel fused_moe_kernel",
    ],
)
def test_compilation_in_the_timed_part_is_cold(line: str) -> None:
    assert "still compiled" in cold(["ok", line], columns([]), 1)


def test_false_alarms_are_rare_on_noise() -> None:
    found = [bool(cold([], columns(requests(noisy(60, 0.01, seed))), 4)) for seed in range(200)]
    assert sum(found) == 0


def calibration(cpu: float, **fields: object) -> Calibration:
    return Calibration(taken_at="", cpu_mb_s=cpu, memory_gb_s=10.0, load_average=0.0, **fields)  # type: ignore[arg-type]


def test_this_host_calibrates() -> None:
    found = calibrate()
    assert found.cpu_mb_s > 10 and found.memory_gb_s > 0.1


def test_drift() -> None:
    even = {"a r1": calibration(1000), "b r1": calibration(1030)}
    assert drift(even) == () == drift({}) == drift({"a r1": calibration(1000)})
    (note,) = drift({**even, "a r2": calibration(700)})
    assert "CPU speed differed by 47%" in note and "700 MB/s of sha256 before a r2" in note
    busy = GpuSample(index=0, memory_used_gb=40.0, throttle=("thermal",))
    (note,) = drift({"a r1": calibration(1000, gpus=(busy,))})
    assert "before a r1, 1 accelerators already held memory (up to 40 GB)" in note
    assert "accelerators were throttled (thermal)" in note


def comparison(half_width: float, num: int) -> Comparison:
    ratio = Interval(mean=1.2, low=1.2 - half_width, high=1.2 + half_width, num=num)
    contrast = Contrast(scenario="s", baseline="b", variant="a", ratio=ratio)
    return Comparison(run_id="r", question="q", rows=(row("a", 100.0),), contrasts=(contrast,))


def test_auto_repeats_stop_when_tight_or_spent() -> None:
    assert enough(comparison(0.01, 3), 3, 100, 0).startswith("after 3 restarts")
    assert enough(comparison(0.01, 2), 2, 100, 0) == ""
    assert enough(comparison(0.15, 3), 3, 100, 0) == ""  # clear, but not tight: it goes on
    assert "budget of 120 s" in enough(comparison(0.15, 3), 3, 100, 120)
    assert "most" in enough(comparison(0.5, 10), 10, 100, 0)
    rows_only = msgspec.structs.replace(comparison(0.01, 3), contrasts=())
    assert enough(rows_only, 3, 100, 0) == ""
