"""Profiler traces of a variant that takes them: a few requests under the profiler, after the timed parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests as http

from harness.schema import Trial
from harness.server import Running
from harness.trial import Bench, target_of, warm_up

_STOP_S = 1800.0
"""Longest wait for the engine to write its traces: one file per rank, gigabytes for a large model."""


def record(bench: Bench, trial: Trial, running: Running, folder: Path) -> str:
    """Requests shaped like the trial's, profiled; in words what became of them, "" for a variant without.

    The profiler slows everything down, so nothing timed runs under it.
    """
    if not bench.planned.variant.traces or running.dead():
        return ""
    name = bench.planned.variant.name
    bench.progress.stage(f"{name}: a few requests under the profiler")
    try:
        with profiling(running.launch.base_url):
            warm_up(bench, trial, running, target_of(bench, running))
    except http.RequestException as error:
        return f"{name}: no trace was taken, its profiler did not answer ({type(error).__name__})"
    written = sorted(folder.glob("*.json*"), key=lambda path: path.stat().st_size)
    if not written:
        return f"{name}: its profiler wrote nothing; read its server.log"
    return f"{name}: {len(written)} trace files; read the largest with `just trace {written[-1]}`"


@contextmanager
def profiling(base_url: str) -> Iterator[None]:
    """vLLM's and SGLang's torch profiler runs within the block. Raises requests.RequestException."""
    http.post(f"{base_url}/start_profile", timeout=60).raise_for_status()
    try:
        yield
    finally:
        http.post(f"{base_url}/stop_profile", timeout=_STOP_S).raise_for_status()
