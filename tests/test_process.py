"""The process launcher with real processes, children in sessions of their own included."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness import server
from harness.errors import LaunchError
from harness.launchers import process
from harness.registry import ROOT
from harness.schema import Launch

SPAWNS = (
    "import subprocess, sys, time\n"
    "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
    "print('child', p.pid, flush=True)\n"
)


def started(tmp_path: Path, code: str) -> process.ProcessServer:
    launch = Launch(variant="v", engine="e", launcher="process", argv=(sys.executable, "-c", code))
    return process.start(launch, tmp_path / "server.log", "run")


def wait_log(tmp_path: Path, word: str) -> str:
    for _ in range(200):
        text = (tmp_path / "server.log").read_text()
        if word in text:
            return text
        time.sleep(0.05)
    raise AssertionError(f"{word!r} never came")


def test_stop_ends_children_in_their_own_sessions(tmp_path: Path) -> None:
    server = started(tmp_path, SPAWNS + "time.sleep(60)")
    child = int(wait_log(tmp_path, "child").split()[1])
    assert psutil.pid_exists(child)
    server.stop(5)
    assert server.poll() == -signal.SIGTERM
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    server.stop(5)


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    code = f"{ignore}; print('up', flush=True); time.sleep(60)"
    server = started(tmp_path, code)
    wait_log(tmp_path, "up")
    server.stop(0.5)
    assert "SIGKILL (by this harness)" in server.describe_exit()


def test_an_engine_keeps_what_it_compiles_whatever_this_shell_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    server = started(tmp_path, "import sys; print('writes:', not sys.dont_write_bytecode, flush=True)")
    assert "writes: True" in wait_log(tmp_path, "writes:")
    server.stop(5)


def test_a_parent_that_died_leaves_nothing(tmp_path: Path) -> None:
    server = started(tmp_path, SPAWNS + "sys.exit(3)")
    child = int(wait_log(tmp_path, "child").split()[1])
    while server.poll() is None:
        time.sleep(0.02)
    assert server.describe_exit() == "exit code 3"
    server.stop(1)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_an_outside_kill_is_told_from_ours(tmp_path: Path) -> None:
    server = started(tmp_path, "print('up', flush=True); import time; time.sleep(60)")
    wait_log(tmp_path, "up")
    os.kill(server.pid, signal.SIGKILL)
    while server.poll() is None:
        time.sleep(0.02)
    assert "out-of-memory killer" in server.describe_exit()
    server.stop(1)


def test_evidence_shows_what_runs(tmp_path: Path) -> None:
    launch = Launch(
        variant="v",
        engine="e",
        launcher="process",
        argv=("sh", "-c", "echo up; sleep 30; true"),
        env={"VLLM_ROCM_USE_AITER": "1"},
    )
    server = process.start(launch, tmp_path / "server.log", "run")
    try:
        wait_log(tmp_path, "up")
        cmdline, environ = server.process_evidence()
        assert cmdline == launch.argv
        assert environ["VLLM_ROCM_USE_AITER"] == "1"
    finally:
        server.stop(1)


def test_a_program_that_does_not_exist_gets_a_sentence(tmp_path: Path) -> None:
    launch = Launch(variant="v", engine="e", launcher="process", argv=("/nonexistent/vllm",))
    with pytest.raises(LaunchError, match="cannot be started"):
        process.start(launch, tmp_path / "server.log", "run")


def test_the_engines_port_leaves_room_for_those_derived_from_it() -> None:
    assert all(server.free_port() + 10_000 < 32_768 for _ in range(50))


def test_files_lie_where_the_engine_looks_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the repository's root, wherever this command was typed."""
    path = os.path.relpath(tmp_path / "made" / "options.yaml", ROOT)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    launch = Launch(variant="v", engine="e", launcher="process", argv=("cat", path), files={path: "a: 1\n"})
    server = process.start(launch, tmp_path / "server.log", "run")
    wait_log(tmp_path, "a: 1")
    server.stop(5)


def test_files_that_cannot_be_written_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    path = str(tmp_path / "file" / "options.yaml")
    launch = Launch(variant="v", engine="e", launcher="process", argv=("cat", path), files={path: "a: 1\n"})
    with pytest.raises(LaunchError, match=r"options\.yaml cannot be written"):
        process.start(launch, tmp_path / "server.log", "run")
