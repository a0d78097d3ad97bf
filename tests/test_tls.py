"""HTTPS: the same client over TLS, with a certificate that it is told to trust."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness import client
from harness.schema import Load, Request, RequestRecord
from tests.streams import SPOKEN, chunked

BODY = chunked(SPOKEN).partition(b"\r\n\r\n")[2]


class Answering(BaseHTTPRequestHandler):
    """Gives one fixed stream; wants the key."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200 if self.headers["Authorization"] == "Bearer open-sesame" else 401)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *files]
    subprocess.run(words, check=True, capture_output=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def fired(url: str) -> list[RequestRecord]:
    records: list[RequestRecord] = []
    requests = [Request(request_id=f"r{i}", prompt="hi", max_tokens=3) for i in range(6)]
    target = client.Target(base_url=url, model="m", api_key_env="SESAME")
    client.fire(target, requests, Load(max_concurrency=2), records.append)
    return records


def test_tls_with_key(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESAME", "open-sesame")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    records = fired(url)
    assert [r.error for r in records] == [""] * 6 and {r.text for r in records} == {"Hello"}


def test_an_untrusted_certificate_is_a_refusal(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESAME", "open-sesame")
    records = fired(url)
    assert {r.error_kind for r in records} == {"refused"} and "certificate" in records[0].error.lower()
