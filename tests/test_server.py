"""Waiting for an engine: silence is a hang, silence in an announced step is progress; one log per launch."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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


def waiting(log: Path, url: str = "", **limits: float) -> tuple[float, str]:
    """(seconds until it was given up, the sentence)."""
    launch = Launch(
        variant="vllm-ep", engine="vllm", launcher="process", port=9, argv=("vllm",), url=url, **limits
    )
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


class Page(BaseHTTPRequestHandler):
    """Not an engine: a page to whatever is asked. With a key, an engine's list of models."""

    def do_GET(self) -> None:
        allowed = self.headers.get("Authorization") == "Bearer open-sesame"
        content = b'{"data": [{"id": "m"}]}' if allowed and self.path == "/v1/models" else b"<html></html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def page() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()


def test_a_web_page_is_no_completion(tmp_path: Path, page: str) -> None:
    _, told = waiting(tmp_path / "server.log", url=page, ready_timeout_s=0.5)
    assert "did not answer a completion" in told


def test_what_an_endpoint_shows_is_asked_with_the_callers_key(
    tmp_path: Path, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENDPOINT_KEY", "open-sesame")
    launch = Launch(
        variant="attach", engine="openai", launcher="attach", url=page, api_key_env="ENDPOINT_KEY"
    )
    running = server.Running(launch, Started(), tmp_path / "server.log", 0.0)
    shown = running.evidence()
    assert shown.models == {"data": [{"id": "m"}]} and shown.server_info == {}


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
