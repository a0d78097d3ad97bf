"""Profiler traces of a variant that takes them: a few requests under the profiler, after the timed parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import requests as http

from harness.planned import TRACES
from harness.server import Running
from harness.trial import Visit, target_of, warm_up

_STOP_S = 1800.0
"""Longest wait for the engine to write its traces: one file per rank, gigabytes for a large model."""


def after_visit(visit: Visit, running: Running) -> None:
    """Requests shaped like the first trial's, profiled.

    The profiler slows everything down, so nothing timed runs under it.
    """
    if not running.dead():
        visit.progress.stage(f"{visit.planned.variant.name}: a few requests under the profiler")
        visit.progress.note(f"{visit.planned.variant.name}: {_taken(visit, running)}")


def _taken(visit: Visit, running: Running) -> str:
    """What became of the traces, in words."""
    shape = next(t for t in visit.planned.trials if not t.skip)
    try:
        with profiling(running.launch.base_url):
            warm_up(visit, visit.planned.trial(shape, visit.restart), running, target_of(visit, running))
    except http.RequestException as error:
        return f"no trace was taken, its profiler did not answer ({type(error).__name__})"
    written = sorted((visit.folder / TRACES).glob("*.json*"), key=lambda path: path.stat().st_size)
    if not written:
        return "its profiler wrote nothing; read its server.log"
    return f"{len(written)} trace files; read the largest with `just trace {written[-1]}`"


@contextmanager
def profiling(base_url: str) -> Iterator[None]:
    """vLLM's and SGLang's torch profiler runs within the block. Raises requests.RequestException."""
    http.post(f"{base_url}/start_profile", timeout=60).raise_for_status()
    try:
        yield
    finally:
        http.post(f"{base_url}/stop_profile", timeout=_STOP_S).raise_for_status()
