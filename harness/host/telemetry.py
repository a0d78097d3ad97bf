"""Once a second, beside the client: the engine's counters and the accelerators' sensors -> telemetry.jsonl.

A process of its own, so that parsing a large metrics page never delays a time stamp of the client.
"""

from __future__ import annotations

import contextlib
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import requests

from harness import registry, store
from harness.client.body import authorization
from harness.host import gpus
from harness.schema import Sample

PERIOD_S = 1.0
_START_S = 30.0
"""Longest wait for the sampler's first sample."""


@contextlib.contextmanager
def sampling(path: Path, engine: str, metrics_url: str, api_key_env: str = "") -> Iterator[None]:
    """Samples to `path` while the body runs; its first sample is taken before the body begins.

    `metrics_url` is the launch's own: not every engine's /metrics may be read (TensorRT-LLM's is a queue
    that whoever reads it empties); "" = no counters. A sampler that cannot run costs the telemetry, not the
    trial.
    """
    words = [sys.executable, "-m", "harness.host.telemetry", str(path), engine, metrics_url, api_key_env]
    child = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=registry.ROOT
    )
    assert child.stdin is not None and child.stdout is not None
    try:
        select.select([child.stdout], [], [], _START_S)
        _tell(child.stdin)
        yield
    finally:
        with contextlib.suppress(OSError):
            child.stdin.close()
        try:
            child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()


def sample(
    engine: str, metrics_url: str, read_gpus: gpus.Reader | None, at_s: float, api_key_env: str = ""
) -> Sample:
    """One sample now; whatever does not answer is empty in it."""
    shown = counters(engine, metrics_url, PERIOD_S, api_key_env)
    return Sample(at_s=at_s, engine=shown, gpus=read_gpus() if read_gpus else ())


def counters(engine: str, metrics_url: str, timeout_s: float, api_key_env: str = "") -> dict[str, float]:
    """The engine's own counters and gauges now, canonical names; {} where it has none or does not answer."""
    parse = getattr(registry.engine(engine), "counters", None)
    if parse is None or not metrics_url:
        return {}
    try:
        key = authorization(api_key_env)
        return dict(parse(requests.get(metrics_url, headers=key, timeout=timeout_s).text))
    except requests.RequestException:
        return {}


def main(path: Path, engine: str, metrics_url: str, api_key_env: str) -> None:
    """The sampler: says it is ready, waits for the trial's start, samples until its input is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes our input
    read_gpus = gpus.reader()
    sample(engine, metrics_url, read_gpus, 0.0, api_key_env)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    started = time.monotonic()
    number = 0
    with store.RecordWriter(path) as write:
        while not _closed(sys.stdin, max(0.0, started + number * PERIOD_S - time.monotonic())):
            write(sample(engine, metrics_url, read_gpus, time.monotonic() - started, api_key_env))
            number = max(number + 1, int((time.monotonic() - started) / PERIOD_S))
        write(sample(engine, metrics_url, read_gpus, time.monotonic() - started, api_key_env))


def _tell(stdin: IO[bytes]) -> None:
    """Begin: the trial starts now."""
    with contextlib.suppress(OSError):
        stdin.write(b"begin\n")
        stdin.flush()


def _closed(stdin: IO[str], wait_s: float) -> bool:
    """Waits, and says whether the other side has gone."""
    return bool(select.select([stdin], [], [], wait_s)[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:5])
