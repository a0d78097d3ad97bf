"""Each promise an endpoint can break is found by its own point, and an honest endpoint breaks none."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from harness.client import Target, known_server
from harness.client.known_server import Script
from harness.correctness import conformance, promises
from harness.errors import LaunchError
from tests.completions_server import Flaws, serving


def broken(flaws: Flaws) -> list[str]:
    with serving(flaws) as url:
        points = conformance.preflight(Target(base_url=url, model="m"), harsh=True)
    assert len(points) == 15
    assert all(p.found and p.consequence for p in points)
    return [p.name for p in points if not p.held]


def test_an_honest_endpoint_keeps_every_promise() -> None:
    assert broken(Flaws()) == []


@pytest.mark.parametrize(
    ("flaws", "names"),
    [
        (Flaws(adds_bos=True), ["usage.prompt_tokens is exact"]),
        (Flaws(stops_early=True), ["max_tokens and ignore_eos are honoured"]),
        (Flaws(no_ids=True), ["output token ids"]),
        (Flaws(no_logprobs=True), ["logprobs of emitted tokens"]),
        (Flaws(tokens_per_chunk=5), ["one token per chunk"]),
        (Flaws(stream_differs=True), ["stream equals whole answer", "stop strings"]),
        (Flaws(no_done=True), ["[DONE] ends the stream"]),
        (Flaws(ignores_stop=True), ["stop strings"]),
        (
            Flaws(accepts_anything=True),
            [
                "max_tokens -1 is refused",
                "temperature 'hot' is refused",
                "a token id beyond the vocabulary is refused",
            ],
        ),
        (Flaws(dies_of_bad_requests=True), ["still answers after bad requests"]),
    ],
)
def test_a_broken_promise_is_its_own_point(flaws: Flaws, names: list[str]) -> None:
    assert broken(flaws) == names


def test_an_endpoint_without_usage_is_found_by_every_point_that_counts() -> None:
    names = broken(Flaws(no_usage=True))
    assert "usage chunk in the stream" in names and "usage.prompt_tokens is exact" in names


def test_unstable_greedy_output_is_reported() -> None:
    assert "greedy output repeats" in broken(Flaws(unstable=True))


def test_an_endpoint_without_token_id_prompts_breaks_nearly_everything_but_is_not_a_crash() -> None:
    names = broken(Flaws(text_only=True))
    assert names[0] == "completions with token-id prompts"
    assert "still answers after bad requests" in names


def test_broken_points_become_sentences_with_their_consequence() -> None:
    with serving(Flaws(no_usage=True)) as url:
        points = conformance.preflight(Target(base_url=url, model="m"))
    sentence = next(s for s in promises.broken(points) if s.startswith("usage chunk"))
    assert sentence.startswith(
        "usage chunk in the stream: absent; output tokens are counted by re-tokenising"
    )


def test_what_may_kill_a_gpu_engine_is_sent_on_request_only() -> None:
    with serving(Flaws(accepts_anything=True)) as url:
        points = conformance.preflight(Target(base_url=url, model="m"))
    assert not any("vocabulary" in p.name for p in points)


def test_a_server_that_takes_minus_one_for_without_end_is_left_at_once() -> None:
    """llama.cpp does: what it would go on saying would be measured beside the trial."""
    left = threading.Event()

    class Endless(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            piece = b'data: {"choices": [{"text": "on ", "finish_reason": "length"}]}\n\n'
            if asked["max_tokens"] != -1:
                self.wfile.write(piece + b"data: [DONE]\n\n")
                return
            try:
                while not left.wait(0.02):
                    self.wfile.write(piece)
            except OSError:
                left.set()

        def log_message(self, *args: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        points = conformance.preflight(Target(base_url=f"http://127.0.0.1:{http.server_port}", model="m"))
        assert left.wait(5), "the answer was let go"
        http.shutdown()
    (point,) = (p for p in points if p.name == "max_tokens -1 is refused")
    assert (point.held, point.found) == (False, "HTTP 200")


def test_a_server_that_ends_no_answer_is_left_after_two_questions() -> None:
    with known_server.running(Script(fault="stall")) as url:
        asked = Target(base_url=url, model="m", timeout_s=0.3)
        with pytest.raises(
            LaunchError, match=r"ended none of 2 answers of 16 tokens within 0.3 s each \(.+stalls"
        ):
            conformance.preflight(asked)


def test_questions_that_come_after_the_end_of_all_fail_at_once() -> None:
    with known_server.running(Script(fault="stall")) as url:
        began = time.monotonic()
        points = conformance.preflight(Target(base_url=url, model="m", ends_at_s=began))
        took_s = time.monotonic() - began
    assert not points[-1].held and points[-1].found.startswith("the time for all questions together is over")
    assert took_s < conformance.TIMEOUT_S / 2
