"""A cache of answers before a real engine, as a gateway in front of an endpoint may hold one.

python -m benchmarks.caching_server VARIANT      prints its address, serves until Ctrl-C
"""

from __future__ import annotations

import http.client
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from harness import server
from harness.registry import ROOT
from tests import answering

_READY_S = 120.0


@contextmanager
def before(variant: str) -> Iterator[str]:
    """Base URL of a cache before an engine of its own; both are gone afterwards. Raises TimeoutError."""
    port = server.free_port()
    words = [sys.executable, "-m", "harness", "serve", variant, f"port={port}"]
    engine = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(port)
        with answering.listening(_handler(port)) as url:
            yield url
    finally:
        engine.terminate()
        engine.wait(60)


def _wait(port: int) -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        try:
            if _asked(port, "GET", "/v1/models", b"")[0] == http.client.OK:
                return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"the engine did not answer within {_READY_S:g} s")


def _asked(port: int, method: str, path: str, body: bytes) -> tuple[int, str, bytes]:
    """(status, content type, body) of the engine."""
    asking = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        asking.request(method, path, body, {"content-type": "application/json"})
        answer = asking.getresponse()
        return answer.status, answer.headers.get_content_type(), answer.read()
    finally:
        asking.close()


def _handler(port: int) -> type[answering.Answering]:
    known: dict[bytes, tuple[int, str, bytes]] = {}

    class Cache(answering.Answering):
        protocol_version = "HTTP/1.1"
        wbufsize, disable_nagle_algorithm = -1, True  # an answer from memory is at once there, and whole

        def do_GET(self) -> None:
            self._tell(_asked(port, "GET", self.path, b""))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if body not in known:
                known[body] = _asked(port, "POST", self.path, body)
            self._tell(known[body])

        def _tell(self, answer: tuple[int, str, bytes]) -> None:
            status, kind, body = answer
            self.write(status, body, kind)

    return Cache


if __name__ == "__main__":
    with before(sys.argv[1]) as url:
        print(url, flush=True)
        threading.Event().wait()
