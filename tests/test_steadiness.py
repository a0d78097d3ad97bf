"""What must be steady for a comparison to mean anything: warm engines, an even host, enough restarts."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from harness.host import engine_env, matmul
from harness.host.calibration import calibrate, drift, freed
from harness.launchers import process
from harness.numbers.collector import collect
from harness.numbers.columns import columns
from harness.numbers.stopping import enough
from harness.numbers.warmup import cold, compiled
from harness.registry import ROOT
from harness.schema import Calibration, Comparison, Contrast, GpuSample, Interval, Launch, RequestRecord
from tests.examples import row

GOLDEN = Path(__file__).parent / "golden"


def served(steps: list[float], prefill: float = 0.0, slots: int = 4, num: int = 0) -> list[RequestRecord]:
    """A closed loop of `slots` on an engine that makes a token per slot and step; `steps` are its times.

    Requests ask for 10 tokens each; a prefill stops all others for `prefill` seconds. `num` sends that many
    at once instead, as a short open loop does.
    """
    records: list[RequestRecord] = []
    waiting = [0.0] * (num or slots)
    active: list[tuple[float, list[float]]] = []
    now = 0.0
    for step in steps:
        if waiting and waiting[0] <= now:
            now += prefill
            active.append((waiting.pop(0), []))
        now += step
        for sent, times in list(active):
            times.append(now)
            if len(times) == 10:
                active.remove((sent, times))
                records.append(
                    RequestRecord(
                        request_id=f"r{len(records)}",
                        due_at_s=sent,
                        sent_at_s=sent,
                        content_at_s=tuple(times),
                        output_len=10,
                    )
                )
                if not num:
                    waiting.append(now)
    return records


def noisy(num: int, mean: float, seed: int = 0) -> list[float]:
    return list(np.random.default_rng(seed).normal(mean, mean * 0.1, num))


def verdict(records: list[RequestRecord]) -> str:
    return cold(columns(records), records)


def test_a_slower_first_half_is_cold() -> None:
    steps = noisy(200, 0.020) + noisy(400, 0.010)
    for records in (served(steps), served(steps, prefill=0.003), served(steps, slots=1)):
        found = re.search(r"gaps between chunks ([\d.]+)x those of the second half", verdict(records))
        assert found and float(found[1]) == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize(
    "steps",
    [
        noisy(600, 0.01),
        noisy(300, 0.01) + noisy(300, 0.02),  # slower later: load, not warm-up
        noisy(300, 0.0110) + noisy(300, 0.01),
        noisy(12, 0.02) + noisy(12, 0.01),  # too few to tell
        noisy(10, 0.1) + noisy(590, 0.01),  # the first requests alone
    ],
)
@pytest.mark.parametrize("prefill", [0.0, 0.03])
def test_what_is_not_cold(steps: list[float], prefill: float) -> None:
    records = served(steps, prefill)
    assert cold(columns(records), records) == ""


def test_the_wave_of_prefills_that_opens_a_trial_is_not_cold() -> None:
    """50 prompts of 30000 tokens at 10 requests/s: prefill takes most of the window (of an H200)."""
    found = collect(GOLDEN / "h200-30000-100.jsonl")
    assert found.columns.ok.sum() == 50
    half = np.sort(found.columns.tpot_s)
    assert np.median(half[25:]) > 1.5 * np.median(half[:25]), "the record no longer shows the wave"
    assert cold(found.columns, found.sample()) == ""
    assert verdict(served(noisy(300, 0.01), prefill=0.2, num=40)) == ""


@pytest.mark.parametrize(
    "line",
    [
        "INFO torch.compile takes 12.3 s in total",
        "Capturing CUDA graph shapes: 40%",
        "[aiter] start build [module_moe_sorting]",
        "Entering DeepGEMM JIT Pre-Compile session",
        "Autotuning kernel fused_moe_kernel",
        "[jit_monitor.py:106] Triton kernel JIT compilation during inference: fused_moe_kernel.",
    ],
)
def test_compilation_in_the_timed_part_is_a_note(line: str) -> None:
    """Not every engine logs it, so it decides nothing: the timing does, for all alike."""
    assert line in compiled(["ok", line])
    assert compiled(["INFO: POST /v1/completions 200"]) == ""


def test_false_alarms_are_rare_on_noise() -> None:
    found = [bool(verdict(served(noisy(300, 0.01, seed)))) for seed in range(100)]
    assert sum(found) == 0


def calibration(cpu: float, **fields: object) -> Calibration:
    return Calibration(taken_at="", cpu_mb_s=cpu, memory_gb_s=10.0, load_average=0.0, **fields)  # type: ignore[arg-type]


def test_this_host_calibrates() -> None:
    found = calibrate()
    assert found.cpu_mb_s > 10 and found.memory_gb_s > 0.1


@pytest.mark.parametrize(
    ("launch", "why"),
    [
        (Launch(variant="v", engine="vllm", launcher="process"), "no accelerator is used"),
        (Launch(variant="v", engine="vllm", launcher="docker", num_gpus=8), "no engine answers"),
        (Launch(variant="v", engine="vllm", launcher="attach", num_gpus=8), "live elsewhere"),
        (Launch(variant="v", engine="x", launcher="process", argv=("sh",), num_gpus=1), "no Python program"),
        (
            Launch(variant="v", engine="x", launcher="process", argv=(sys.executable,), num_gpus=1),
            "No module named 'torch'",
        ),
    ],
)
def test_why_accelerators_are_not_calibrated(
    launch: Launch, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    found = calibrate(launch)
    assert why in found.gpu_skipped and found.gpu_tflops == ()


@pytest.mark.engine
def test_matrix_products_run_in_an_engines_environment() -> None:
    python = str(engine_env.ensure("transformers", ROOT, print))
    launch = Launch(launcher="process", argv=(python,), env={"CUDA_VISIBLE_DEVICES": ""}, num_gpus=8)
    found = json.loads(process.python(launch, Path(matmul.__file__), "1", "cpu"))
    assert found["device"] == "cpu" and found["tflops"][0] > 0.001
    assert "sees no accelerator" in calibrate(launch).gpu_skipped


@pytest.mark.parametrize(
    ("readings", "num_gpus", "waited"),
    [
        ([(0.5, 0.4)], 2, 0.0),
        ([(90.0, 90.0), (60.0, 30.0), (0.6, 0.5)], 2, 2.0),
        ([(90.0, 0.5)], 1, 0.0),
        ([(90.0, 0.5)], 2, 11.0),
        ([(90.0, 90.0)], 0, 0.0),
        ([(100.0 - second / 2, 100.0) for second in range(200)], 2, 120.0),
    ],
    ids=["free", "given back", "enough are free", "somebody else's", "none is used", "never ends"],
)
def test_memory_of_the_last_engine_is_waited_for(
    readings: list[tuple[float, float]], num_gpus: int, waited: float
) -> None:
    left = iter(readings)
    last = readings[-1]

    def sample() -> tuple[GpuSample, ...]:
        return tuple(GpuSample(index=i, memory_used_gb=used) for i, used in enumerate(next(left, last)))

    assert freed(sample, num_gpus, lambda seconds: None) == waited


def test_accelerators_drift_too() -> None:
    even = {"a r1": calibration(1000, gpu_tflops=(700.0, 690.0)), "b r1": calibration(1000)}
    assert drift(even) == ()
    (note,) = drift({**even, "a r2": calibration(1000, gpu_tflops=(600.0, 610.0))})
    assert "GPU speed differed by 15% between launches (600 TFLOP/s before a r2" in note
    (note,) = drift({"a r1": calibration(1000, gpu_tflops=(700.0, 500.0))})
    assert note.startswith("before a r1, accelerator 1 did 500 TFLOP/s of bf16 and accelerator 0 did 700")
    unread = calibration(1000, gpus_unread="AMD accelerators are here but amdsmi cannot read them")
    assert drift({"a r1": unread, "a r2": unread}) == (unread.gpus_unread,)


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
