"""Waiting for an engine: silence is a hang, silence in an announced step is progress; one log per launch."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from harness import server
from harness.errors import LaunchError
from harness.schema import Launch

STEP = "(Worker_DP3) INFO Loading safetensors checkpoint shards: 31% Completed | 50/163\n"


class Started:
    """An engine that runs and never answers."""

    def poll(self) -> int | None:
        return None

    def stop(self, grace_s: float) -> None:
        """Nothing to stop."""

    def describe_exit(self) -> str:
        return "still running"

    def process_evidence(self) -> tuple[tuple[str, ...], dict[str, str]]:
        return (), {}


def waiting(log: Path, **limits: float) -> tuple[float, str]:
    """(seconds until it was given up, the sentence)."""
    launch = Launch(variant="vllm-ep", engine="vllm", launcher="process", port=9, argv=("vllm",), **limits)
    began = time.monotonic()
    with pytest.raises(LaunchError) as caught:
        server.wait_ready(launch, Started(), log, lambda stage: None)
    return time.monotonic() - began, caught.value.message


def test_silence_is_a_hang_and_its_cause_is_looked_for(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("No available memory for the cache blocks. Try increasing gpu_memory_utilization.\n")
    took, told = waiting(log, quiet_timeout_s=0.5, step_timeout_s=60)
    assert took < 3
    assert "vllm-ep hangs: nothing new in its log for" in told and "--gpu-memory-utilization" in told


def test_silence_in_an_announced_step_is_progress(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text(STEP + "(Worker_DP0) INFO something that another rank still says\n" * 3)
    took, told = waiting(log, quiet_timeout_s=0.5, step_timeout_s=2.0)
    assert took >= 2 and "hangs" in told


def test_a_log_that_goes_on_is_progress_until_the_start_takes_too_long(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    done = threading.Event()

    def talk() -> None:
        while not done.wait(0.1):
            with log.open("a") as file:
                file.write("still here\n")

    talking = threading.Thread(target=talk)
    talking.start()
    try:
        took, told = waiting(log, quiet_timeout_s=0.8, ready_timeout_s=2.0)
    finally:
        done.set()
        talking.join()
    assert took >= 2 and "did not answer a completion within 2 s" in told


def test_every_launch_has_a_log_of_its_own(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    server.set_aside(log)
    for content in ("first", "second"):
        log.write_text(content)
        server.set_aside(log)
    assert not log.exists()
    log.touch()  # somebody follows it already
    server.set_aside(log)
    assert log.exists()
    assert [(tmp_path / f"server-{n}.log").read_text() for n in (1, 2)] == ["first", "second"]
