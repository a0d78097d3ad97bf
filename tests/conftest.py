"""The order of a session: tests without an engine, then those that measure milliseconds, then real engines.

Meanwhile missing engine environments are installed, two minutes of work for one core. What measures waits
for their end, and so do the engines.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from typing import Any

import pytest

from harness.registry import ROOT
from tests import environments

MEASURING = {
    "test_attach",
    "test_client",
    "test_goodput",
    "test_pacing",
    "test_selfcheck",
    "test_server",
    "test_shard",
    "test_stale_connection",
    "test_telemetry",
    "test_traffic",
}
"""Modules whose tests hold a clock against limits of milliseconds."""
WHOLE = {
    "test_aa",
    "test_api_key",
    "test_conformance",
    "test_endpoint",
    "test_engine_env",
    "test_engine_seam",
    "test_foreground",
    "test_frames",
    "test_launchers",
    "test_probe",
    "test_report_html",
    "test_run",
    "test_second_opinion",
    "test_tasks",
    "test_verify",
}
"""Modules that start the whole program, a browser, or pip, over and over: most of the time of phase 0."""
PARTS = {
    "fast": "no engine, no container, nothing that measures milliseconds, no whole benches",
    "pure": "no engine, no container, nothing that measures milliseconds: may run in parallel (-n 2)",
    "clock": "what measures milliseconds: by itself, on a machine without much else to do",
    "real": "real engines and containers: may run in parallel, the machine's memory permitting (-n 2)",
}
LEFT_OUT = pytest.StashKey[int]()
INSTALLER = pytest.StashKey[subprocess.Popen[bytes]]()


def phase(item: pytest.Item) -> int:
    """0: needs nothing; 1: needs a machine without much else to do; 2: starts a real engine."""
    if item.get_closest_marker("engine"):
        return 2
    return int(item.path.stem in MEASURING)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Parts of the suite: without one, everything runs, in one process."""
    told = "; ".join(f"{name}: {means}" for name, means in PARTS.items())
    parser.addoption("--part", choices=sorted(PARTS), help=told)


def belongs(item: pytest.Item, part: str | None) -> bool:
    """Whether a test is of the part that was asked for. pure, clock and real are all of them."""
    if part is None:
        return True
    if phase(item) == 2 or item.get_closest_marker("docker"):
        return part == "real"
    if phase(item) == 1:
        return part == "clock"
    return part == "pure" or (part == "fast" and item.path.stem not in WHOLE)


def pytest_configure() -> None:
    """A job in the background of a script inherits SIGINT as ignored, and so would every harness tested."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the part that was asked for, sorted by phase; within one the order stays."""
    part = config.getoption("--part")
    left = [item for item in items if not belongs(item, part)]
    config.stash[LEFT_OUT] = len(left)
    config.hook.pytest_deselected(items=left)
    items[:] = sorted((item for item in items if belongs(item, part)), key=phase)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin to install what the chosen tests will need."""
    if session.config.option.collectonly or not any(phase(item) == 2 for item in session.items):
        return
    if names := environments.missing():
        command = [sys.executable, "-m", "tests.environments", *names]
        session.config.stash[INSTALLER] = subprocess.Popen(command, cwd=ROOT, preexec_fn=lambda: os.nice(10))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Outside the test's own time limit: wait for the installer."""
    installer = item.config.stash.get(INSTALLER, None)
    if installer and phase(item):
        installer.wait()
    return (yield)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """An installer that still runs is ended; the next session goes on from there."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = session.config.stash.get(LEFT_OUT, 0)
    installer = session.config.stash.get(INSTALLER, None)
    if installer and installer.poll() is None:
        installer.send_signal(signal.SIGINT)
        installer.wait()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Each process of pytest-xdist collects for itself and leaves out the same."""
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", 0)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what a part leaves out: a green part is not a green suite."""
    if part := config.getoption("--part"):
        left = config.stash.get(LEFT_OUT, 0)
        terminalreporter.write_line(
            f"part {part} ({PARTS[part]}): {left} tests left out; `just test` runs all"
        )
