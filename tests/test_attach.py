"""Attached endpoints: nothing is started or stopped, and silence is told from an answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness import server
from harness.errors import InputError, LaunchError
from harness.launchers import attach
from harness.schema import Launch


class Endpoint(BaseHTTPRequestHandler):
    """Answers every GET with the status in its path."""

    hits = 0

    def do_GET(self) -> None:
        Endpoint.hits += 1
        self.send_response(int(self.path.rsplit("/", 1)[1]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test's output stays readable."""


@contextmanager
def serving() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as endpoint:
        thread = threading.Thread(target=endpoint.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{endpoint.server_port}"
        finally:
            endpoint.shutdown()
            thread.join()


def launch_of(url: str, path: str = "/200") -> Launch:
    return Launch(variant="attach", engine="openai", launcher="attach", url=url, ready_path=path)


@pytest.mark.parametrize("path", ["/200", "/404", "/500"])
def test_any_answer_counts(tmp_path: Path, path: str) -> None:
    with serving() as url:
        running = attach.start(launch_of(url + "/", path), tmp_path / "server.log", "run")
        assert running.poll() is None and running.describe_exit() == "still running"
        running.stop(1)
        assert running.poll() is None, "stop() must not touch what is not ours"
        assert running.process_evidence() == ((), {})
    assert f"attached to {url} for run" in (tmp_path / "server.log").read_text()


def test_the_measured_server_is_not_asked_all_the_time(tmp_path: Path) -> None:
    with serving() as url:
        running = attach.start(launch_of(url), tmp_path / "log", "run")
        before = Endpoint.hits
        assert [running.poll() for _ in range(100)] == [None] * 100
        assert Endpoint.hits == before


def test_silence_is_seen(tmp_path: Path) -> None:
    with serving() as url:
        running = attach.AttachedServer(url + "/200")
    assert running.poll() == 1
    assert running.describe_exit() == f"{url}/200 no longer answers (ConnectionError)"


def test_nobody_there_is_a_sentence(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{server.free_port()}"
    with pytest.raises(
        LaunchError, match=f"Nothing answers at {url} .*start the server there, or correct url="
    ):
        attach.start(launch_of(url), tmp_path / "log", "run")


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://host"])
def test_an_address_is_needed(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError, match=r"url=http://host:port"):
        attach.start(launch_of(url), tmp_path / "log", "run")


def test_a_server_that_accepts_and_says_nothing_is_not_running() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as mute:
        running = attach.AttachedServer(f"http://127.0.0.1:{mute.getsockname()[1]}", timeout_s=0.2)
        assert running.poll() == 1
        assert "no answer within" in running.describe_exit()
