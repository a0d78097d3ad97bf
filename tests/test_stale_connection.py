"""A server that promises keep-alive and closes after every answer, as llama.cpp's does, costs no request."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator

import pytest

from harness import client
from harness.schema import Load, Request, RequestRecord

EVENT = (
    b'data: {"choices":[{"index":0,"text":"x","token_ids":[7],"finish_reason":"length"}],'
    b'"usage":{"prompt_tokens":2,"completion_tokens":1}}\n\n'
)


class OneAnswer(socketserver.StreamRequestHandler):
    """Answers one request, says keep-alive, closes. Or closes without a word at all."""

    silent = False

    def handle(self) -> None:
        length = 0
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        self.rfile.read(length)
        if length and not self.silent:
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nKeep-Alive: timeout=5, max=100\r\n"
            body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (EVENT, b"data: [DONE]\n\n"))
            self.wfile.write(head + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n")


class Silent(OneAnswer):
    silent = True


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), request.param) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def fired(url: str) -> list[RequestRecord]:
    requests = [Request(request_id=f"r{i}", prompt_token_ids=(1, 2), max_tokens=1) for i in range(12)]
    records: list[RequestRecord] = []
    target = client.Target(base_url=url, model="m", timeout_s=5.0)
    client.fire(target, requests, Load(max_concurrency=3), records.append)
    return records


@pytest.mark.parametrize("url", [OneAnswer], indirect=True)
def test_no_request_is_lost(url: str) -> None:
    records = fired(url)
    assert sorted(r.request_id for r in records) == sorted(f"r{i}" for i in range(12))
    assert [r.error for r in records if r.error] == []
    assert all(r.output_token_ids == (7,) and r.sent_at_s < r.content_at_s[0] for r in records)


@pytest.mark.parametrize("url", [Silent], indirect=True)
def test_a_server_that_never_answers_is_not_asked_for_ever(url: str) -> None:
    records = fired(url)
    assert len(records) == 12
    assert {r.error_kind for r in records} == {"reset"}
