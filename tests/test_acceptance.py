"""Servers that refuse request fields are served without them, and the rows say so."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from harness.client import Target, acceptance, body, fire
from harness.correctness import probe
from harness.schema import Load, Request, RequestRecord
from tests import completions_server, trtllm_server
from tests.answering import Answering, listening
from tests.launching import render

FASTAPI = '{"detail":[{"type":"extra_forbidden","loc":["body","return_token_ids"],"msg":"Extra inputs ..."}]}'
NIM = "body -> seed\n  Extra inputs are not permitted (type=extra_forbidden)\nbody -> ignore_eos\n  Extra ..."
"""The two shapes beside TensorRT-LLM's own: FastAPI's 422, and the sentence of NVIDIA/garak #748."""


@contextmanager
def refusing(*names: str, at_once: bool) -> Iterator[str]:
    """URL of a server that refuses these fields, all in one answer or the first only, and serves the rest."""

    class Handler(Answering):
        def do_POST(self) -> None:
            given = json.loads(self.rfile.read(int(self.headers["content-length"])))
            wrong = [n for n in names if n in given]
            told = wrong if at_once else wrong[:1]
            self._send(422, {"detail": [{"loc": ["body", n]} for n in told]}) if wrong else self._send(
                200, {}
            )

        def _send(self, status: int, content: object) -> None:
            self.write(status, json.dumps(content).encode())

    with listening(Handler) as url:
        yield url


def test_a_strict_server_is_measured_by_the_portable_client() -> None:
    with trtllm_server.serving(render("trtllm-ep")) as (url, _):
        plain = Target(base_url=url, model="deepseek-r1")
        found = acceptance.ask(plain)
        records: list[RequestRecord] = []
        request = Request(request_id="a", max_tokens=3, prompt_token_ids=(7, 8), ignore_eos=True)
        fire(acceptance.applied(plain, found), (request,), Load(), records.append)
    assert found.without == ("return_token_ids",)
    assert found.notes == (
        "the server refuses the request field return_token_ids, so it was left out: verified outputs are "
        "re-tokenised from their text",
    )
    assert (records[0].error, records[0].output_len) == ("", 3)


@pytest.mark.parametrize("at_once", [True, False])
def test_several_refused_fields_are_found_however_they_are_named(at_once: bool) -> None:
    with refusing("seed", "return_token_ids", "logprobs", at_once=at_once) as url:
        found = acceptance.ask(Target(base_url=url, model="m"))
    assert set(found.without) == {"seed", "return_token_ids", "logprobs"}
    assert len(found.notes) == 3


def test_a_server_that_takes_everything_is_left_as_it_is() -> None:
    with completions_server.serving() as url:
        target = Target(base_url=url, model="m")
        found = acceptance.ask(target)
    assert (found.without, found.notes) == ((), ())
    assert acceptance.applied(target, found) is target


def test_without_its_essentials_a_request_would_be_another_one() -> None:
    fields = json.loads(body(Request(request_id="a", prompt_token_ids=(1,), max_tokens=2), Target("u", "m")))
    assert acceptance.named("max_tokens is too large; prompt must be text; model not found", fields) == ()
    assert acceptance.named(FASTAPI, fields) == ("return_token_ids",)
    assert acceptance.named(NIM, fields) == ("seed", "ignore_eos")


def test_silence_refuses_nothing() -> None:
    assert acceptance.ask(Target(base_url="http://127.0.0.1:9", model="m")).without == ()


def test_the_probe_names_what_was_refused() -> None:
    with trtllm_server.serving(render("trtllm-ep")) as (url, _):
        found = probe.run(url, "deepseek-r1")
    assert any(
        line.startswith("refused  the server refuses the request field return") for line in probe.lines(found)
    )
    assert "kept    completions with token-id prompts: answered" in probe.lines(found)
