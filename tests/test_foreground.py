"""serve: what it is told in words, and what it tells."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import requests

from harness.server import free_port
from tests.test_run import Desk


@pytest.mark.parametrize("port", ["eighty", "0", "70000"])
def test_a_port_that_is_none_is_a_sentence(tmp_path: Path, port: str) -> None:
    done = Desk(tmp_path).run("serve", "mock", "tiny-moe", f"port={port}")
    assert done.returncode == 2, done.stderr
    assert f"port={port} is not a TCP port" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("port=eighty",), "port=eighty is not a TCP port"),
        (("tiny-moe", "another"), "'another' is one word too many"),
    ],
)
def test_keys_need_no_model_before_them(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    done = Desk(tmp_path).run("serve", "mock", *words)
    assert done.returncode == 2, done.stderr
    assert told in done.stderr


def test_square_brackets_are_told_as_they_are(tmp_path: Path) -> None:
    """Folders, installers ("[notice]") and engines write them; none of that is markup."""
    desk = Desk(tmp_path / "[notice]")
    port = free_port()
    process = desk.start("serve", "mock-traces", "tiny-moe", f"port={port}")
    while process.poll() is None:
        try:
            requests.get(f"http://127.0.0.1:{port}/health", timeout=5)
            break
        except requests.ConnectionError:
            time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert f"traces will be in {tmp_path}/[notice]/results/" in told, told
