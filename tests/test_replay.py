"""Replay through small real HTTP servers that speak the two scoring dialects, or fail in known ways."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from harness import registry
from harness.correctness import replay, scoring_dialects
from harness.errors import AttestationError, InputError

VLLM = SimpleNamespace(__name__="engines.vllm", SCORING="prompt_logprobs")
SGLANG = registry.engine("sglang")
SAMPLE = replay.Sample(
    request_id="r1", prompt_token_ids=(5, 6), output_token_ids=(7, 8, 9), emitted_logprobs=(-0.1, -2.0, -0.7)
)
Answer = Callable[[str, dict[str, Any]], tuple[int, Any]]


@contextmanager
def server(answer: Answer) -> Iterator[str]:
    """A server that answers every POST with answer(path, body)."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, value = answer(self.path, body)
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            """Quiet."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}/"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def vllm_rows(ids: list[int]) -> list[dict[str, Any] | None]:
    """Token 8 is second choice 0.5 nats behind token 3; 9 is tied with 4; all others are first choice."""

    def row(token: int) -> dict[str, Any]:
        if token == 8:
            return {"8": {"logprob": -1.5, "rank": 2}, "3": {"logprob": -1.0, "rank": 1}}
        if token == 9:
            return {"9": {"logprob": -0.7, "rank": 2}, "4": {"logprob": -0.7, "rank": 1}}
        return {str(token): {"logprob": -0.25, "rank": 1}}

    return [None, *map(row, ids[1:])]


def vllm_answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    assert path == "/v1/completions"
    assert body["model"] == "ref" and body["prompt_logprobs"] == 1 and body["max_tokens"] == 1
    return 200, {"choices": [{"prompt_logprobs": vllm_rows(body["prompt"])}]}


def sglang_answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    assert path == "/generate"
    ids, start = body["input_ids"], body["logprob_start_len"]
    rows = {7: -0.25, 8: -1.5, 9: -0.7}
    best = {7: (-0.25, 7), 8: (-1.0, 3), 9: (-0.7, 4)}
    own = [[None if i == 0 else rows[t], t, None] for i, t in enumerate(ids[start:])]
    top = [None if i == 0 else [[*best[t], None]] for i, t in enumerate(ids[start:])]
    return 200, {"meta_info": {"input_token_logprobs": own, "input_top_logprobs": top}}


@pytest.mark.parametrize(("engine", "answer"), [(VLLM, vllm_answer), (SGLANG, sglang_answer)])
def test_both_dialects_give_the_same_view(engine: Any, answer: Answer) -> None:
    with server(answer) as url:
        (score,) = replay.score(url, engine, "ref", [SAMPLE], replay.ReplayOptions(reference="oracle"))
    assert (score.request_id, score.reference, score.error) == ("r1", "oracle", "")
    assert score.logprob == (-0.25, -1.5, -0.7)
    assert score.rank == (1, 2, 1)
    assert score.margin == (0.0, 0.5, 0.0)
    assert replay.samples_of([score]) == [SAMPLE]


@pytest.mark.parametrize("value", [{"choices": [{"text": "hi"}]}, {"choices": [{"prompt_logprobs": [None]}]}])
def test_silently_missing_logprobs_are_an_error_not_chance_level(value: Any) -> None:
    with server(lambda path, body: (200, value)) as url, pytest.raises(AttestationError, match="of 5 tokens"):
        replay.score(url, VLLM, "ref", [SAMPLE])


def test_sglang_logprobs_of_other_tokens_are_an_error() -> None:
    def shifted(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        own = [[-1.0, t + 1, None] for t in body["input_ids"]]
        return 200, {"meta_info": {"input_token_logprobs": own, "input_top_logprobs": [[o] for o in own]}}

    with server(shifted) as url, pytest.raises(AttestationError, match="other tokens"):
        replay.score(url, SGLANG, "ref", [SAMPLE])


def test_nan_from_the_reference_is_an_error() -> None:
    row = {"7": {"logprob": float("nan"), "rank": 1}}
    response = {"choices": [{"prompt_logprobs": [None, None, row, row, row]}]}
    with pytest.raises(AttestationError, match="not numbers"):
        scoring_dialects.dialect_of(VLLM).scored(response, (5, 6), (7, 7, 7))


def test_minus_infinity_is_kept_as_the_lowest_logprob() -> None:
    row = {"7": {"logprob": float("-inf"), "rank": 2048}, "1": {"logprob": -0.1, "rank": 1}}
    response = {"choices": [{"prompt_logprobs": [None, row]}]}
    forced = scoring_dialects.dialect_of(VLLM).scored(response, (5,), (7,))
    assert forced.logprob == (scoring_dialects.LOWEST_LOGPROB,)
    assert forced.rank == (2048,)


def test_an_http_error_is_kept_with_its_request() -> None:
    def too_long(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return (400, {"error": "too long"}) if len(body["prompt"]) > 5 else vllm_answer(path, body)

    long = replay.Sample(request_id="r2", prompt_token_ids=(5, 6, 5), output_token_ids=(7, 8, 9))
    with server(too_long) as url:
        scores = replay.score(url, VLLM, "ref", [long, SAMPLE])
    assert scores[0].error == 'reference answered HTTP 400: {"error": "too long"}'
    assert scores[1].error == ""


def test_an_unreachable_reference_is_asked_once_and_named() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        scores = replay.score(url, VLLM, "ref", [SAMPLE] * 50, replay.ReplayOptions(concurrency=1))
    assert {s.error for s in scores} == {"reference unreachable in mid-verification: ConnectionError"}
    assert len(scores) == 50


def test_an_engine_that_cannot_score_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="engine llamacpp cannot be a reference"):
        replay.score("http://x", SimpleNamespace(__name__="engines.llamacpp"), "m", [SAMPLE])


def test_an_engine_file_may_bring_its_own_dialect() -> None:
    own = SimpleNamespace(
        scoring=lambda p, o, m, k: ("/mine", {"all": [*p, *o]}),
        scored=lambda r, p, o: scoring_dialects.Forced((-1.0,) * len(o), (1,) * len(o), (0.0,) * len(o)),
    )
    with server(lambda path, body: (200 if path == "/mine" else 404, {})) as url:
        (score,) = replay.score(url, own, "m", [SAMPLE])
    assert score.logprob == (-1.0, -1.0, -1.0)


def test_unscored_samples_keep_their_ids_for_a_later_replay() -> None:
    (score,) = replay.unscored([SAMPLE], "no reference", "oracle")
    assert (score.error, score.reference) == ("no reference", "oracle")
    assert replay.samples_of([score]) == [SAMPLE]
