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
INSTALLER = pytest.StashKey[subprocess.Popen[bytes]]()


def phase(item: pytest.Item) -> int:
    """0: needs nothing; 1: needs a machine without much else to do; 2: starts a real engine."""
    if item.get_closest_marker("engine"):
        return 2
    return int(item.path.stem in MEASURING)


def pytest_configure() -> None:
    """A job in the background of a script inherits SIGINT as ignored, and so would every harness tested."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by phase; within one the order stays."""
    items.sort(key=phase)


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
    installer = session.config.stash.get(INSTALLER, None)
    if installer and installer.poll() is None:
        installer.send_signal(signal.SIGINT)
        installer.wait()
