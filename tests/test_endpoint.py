"""Any endpoint: it is asked what it serves and takes, and its row is ranked on the lengths it counts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harness import models, plan, store
from harness.client import Target, acceptance, endpoint
from harness.correctness import conformance, tokenizer_identity
from harness.errors import InputError
from harness.host.machine import probe
from harness.registry import ROOT
from harness.schema import Launch
from harness.tokens import Vocabulary
from tests import completions_server, trtllm_server
from tests.answering import Answering, listening
from tests.launching import render
from tests.test_run import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


WORDS = ("32/8", "num_prompts=6", "concurrency=2", "warmup=0")


class Manners(NamedTuple):
    """What a foreign server does."""

    models: tuple[str, ...] = ("acme/unheard-of-7b",)
    has_completions: bool = True
    stops_after: int = 10**6
    """Tokens after which it ends an answer, whatever was asked for."""
    usage: bool = True
    extra_prompt_tokens: int = 1


@contextmanager
def foreign(manners: Manners = Manners()) -> Iterator[str]:  # noqa: B008 (frozen)
    """URL of a strict server of unknown weights that takes text, or messages, and counts words."""

    class Handler(Answering):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            known = self.path == "/v1/models" and manners.models
            self._send(200 if known else 404, {"data": [{"id": m} for m in manners.models]})

        def do_POST(self) -> None:
            given = json.loads(self.rfile.read(int(self.headers["content-length"])))
            chat = self.path.endswith("chat/completions")
            if not chat and not manners.has_completions:
                return self._send(404, {"detail": "Not Found"})
            if given["max_tokens"] < 1:
                return self._send(
                    422, {"detail": [{"type": "greater_than_equal", "loc": ["body", "max_tokens"]}]}
                )
            if unknown := sorted(set(given) & {"return_token_ids", "ignore_eos"}):
                return self._send(422, {"detail": [{"type": "extra_forbidden", "loc": ["body", unknown[0]]}]})
            text = given["messages"][-1]["content"] if chat else given["prompt"]
            if not isinstance(text, str):
                return self._send(422, {"detail": [{"type": "string_type", "loc": ["body", "prompt"]}]})
            self._answer(given, len(text.split()) + manners.extra_prompt_tokens, chat)

        def _answer(self, given: dict[str, Any], num_in: int, chat: bool) -> None:
            num = min(given["max_tokens"], manners.stops_after)
            piece: list[dict[str, Any]] = [
                {"delta": {"content": " word"}} if chat else {"text": " word"} for _ in range(num)
            ]
            piece[-1]["finish_reason"] = "length" if num == given["max_tokens"] else "stop"
            usage = {"prompt_tokens": num_in, "completion_tokens": num}
            if not given.get("stream"):
                key = "message" if chat else "text"
                whole = {"content": " word" * num} if chat else " word" * num
                return self._send(200, {"choices": [{key: whole, "finish_reason": "stop"}], "usage": usage})
            chunks: list[dict[str, Any]] = [{"choices": [p]} for p in piece]
            chunks += [{"choices": [], "usage": usage}] if manners.usage else []
            events = [f"data: {json.dumps(c)}\n\n" for c in chunks]
            self._write(200, "".join([*events, "data: [DONE]\n\n"]).encode(), "text/event-stream")

        def _send(self, status: int, content: object) -> None:
            self._write(status, json.dumps(content).encode(), "application/json")

        def _write(self, status: int, data: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with listening(Handler) as url:
        yield url


def test_a_server_of_unknown_weights_is_ranked_on_the_lengths_it_counts(desk: Desk) -> None:
    with foreign() as url:
        done = desk.run("load", f"url={url}/v1", *WORDS)
    assert done.returncode == 0, done.stderr
    row = desk.row("attach", "text-32-8@c2")
    assert (row.invalid, row.rankable, row.wrong) == ("", True, False)
    assert row.metrics is not None and row.metrics.completed == 6
    told = " ".join(row.notes)
    assert "refuses the request field return_token_ids" in told and "field ignore_eos" in told
    assert "weights and tokenizer not known" in told and "as the server counts them" in told
    launch = store.read(desk.runs[0] / "attach" / "r1" / "launch.json", Launch)
    assert launch.served_model_name == "acme/unheard-of-7b"
    assert not (desk.runs[0] / "reference").exists()


def test_an_endpoint_with_chat_completions_only_is_served(desk: Desk) -> None:
    with foreign(Manners(has_completions=False)) as url:
        done = desk.run("load", f"url={url}", *WORDS)
    assert done.returncode == 0, done.stderr
    row = desk.row("attach", "text-32-8@c2")
    assert row.invalid == "" and row.rankable
    assert any(note.startswith("the server takes no text (HTTP 404") for note in row.notes)


def test_outputs_that_end_early_are_a_note_where_no_length_can_be_promised(desk: Desk) -> None:
    with foreign(Manners(stops_after=5)) as url:
        desk.run("load", f"url={url}", *WORDS)
    row = desk.row("attach", "text-32-8@c2")
    assert row.invalid == ""
    assert any("6 of 6 outputs ended before max_tokens" in note for note in row.notes)


def test_output_that_nobody_can_count_is_not_guessed(desk: Desk) -> None:
    with foreign(Manners(usage=False)) as url:
        desk.run("load", f"url={url}", *WORDS)
    assert "states no usage for 6 requests" in desk.row("attach", "text-32-8@c2").invalid


def test_a_server_that_calls_its_model_as_one_of_ours_is_asked_how_it_counts(desk: Desk) -> None:
    """Names are free: one that counts tokens otherwise is not held to our model, and the row says so."""
    with foreign(Manners(models=("tiny-moe",))) as url:
        done = desk.run("load", f"url={url}", *WORDS)
    assert done.returncode == 0, done.stderr
    row = desk.row("attach", "text-32-8@c2")
    assert (row.invalid, row.rankable) == ("", True)
    told = " ".join(row.notes)
    assert "does not count tokens as tiny-moe does, so its weights are taken as unknown" in told
    assert "weights and tokenizer not known" in told
    launch = store.read(desk.runs[0] / "attach" / "r1" / "launch.json", Launch)
    assert (launch.served_model_name, launch.model) == ("tiny-moe", "unknown, called tiny-moe")


def test_a_tokenizer_is_known_by_its_counts() -> None:
    folder = str(ROOT / "models" / "tiny-moe")
    ours = [Vocabulary(folder).count(text) for text in endpoint.TEXTS]
    alike = tokenizer_identity.counts_alike
    assert alike(ours, endpoint.TEXTS, folder)
    assert alike([n + 1 for n in ours], endpoint.TEXTS, folder), "a token before every prompt"
    assert not alike([ours[0] + 1, *ours[1:]], endpoint.TEXTS, folder)
    assert not alike([n + 30 for n in ours], endpoint.TEXTS, folder), "a template, or another tokenizer"
    assert not alike((), endpoint.TEXTS, folder)
    assert len({*ours}) > 3
    said = models.assumed(models.resolve("tiny-moe"), "")
    assert "that it serves those weights is assumed" in said
    assert models.assumed(models.resolve("tiny-moe"), "tiny-moe") == ""
    assert models.assumed(models.called("acme/unheard-of-7b"), "") == ""


def test_a_named_model_is_held_to_its_own_tokens(desk: Desk) -> None:
    with foreign() as url:
        done = desk.run("load", f"url={url}", *WORDS, "model=tiny-moe", "reference=none", "prompts=text")
    assert done.returncode == 0, done.stderr
    assert "32 tokens sent" in desk.row("attach", "text-32-8@c2").invalid


def test_ids_refused_by_a_server_of_a_named_model_become_text_and_a_note() -> None:
    with completions_server.serving(completions_server.Flaws(text_only=True)) as url:
        found = acceptance.ask(Target(base_url=url, model="m"), ("ids", "text", "chat"))
    assert found.prompts == "text" and "HTTP 400" in found.refused["ids"]
    assert (
        "takes no token ids" in found.notes[0] and "lengths are as the server counts them" in found.notes[0]
    )


def test_several_models_need_a_name(desk: Desk) -> None:
    with foreign(Manners(models=("one", "two"))) as url:
        done = desk.run("load", f"url={url}", *WORDS)
        assert done.returncode == 2 and "serves one, two; say which" in done.stderr
        done = desk.run("load", f"url={url}", *WORDS, "served_name=two")
    assert done.returncode == 0, done.stderr
    launch = store.read(desk.runs[-1] / "attach" / "r1" / "launch.json", Launch)
    assert launch.served_model_name == "two"


def test_the_name_that_is_served_wins_over_our_alias() -> None:
    ours = ("deepseek-r1", "deepseek-ai/DeepSeek-R1")
    assert endpoint.Served("u", ("/weights/r1",)).name(*ours) == "/weights/r1"
    assert endpoint.Served("u", ("x", "deepseek-ai/DeepSeek-R1")).name(*ours) == ours[1]
    assert endpoint.Served("u", ()).name(*ours) == ""
    assert endpoint.Served("u", ("x", "y"), "y").name(*ours) == "y"
    with pytest.raises(InputError, match="served_name=NAME"):
        endpoint.Served("u", ("a", "b")).name("c")


def test_a_served_name_that_is_an_alias_or_its_id_brings_the_tokenizer() -> None:
    assert models.called("tiny-moe").path.endswith("models/tiny-moe")
    assert models.called("acme/unheard-of-7b").path == ""
    with trtllm_server.serving(render("trtllm-ep")) as (url, _):
        recipe, _ = plan.recipe_of(["attach", "32/8", f"url={url}"], probe())
        (planned,) = plan.plan(recipe, probe())
    assert planned.model.hf_id == "deepseek-ai/DeepSeek-R1"
    assert planned.launch.model == "deepseek-r1"


def test_the_preflight_speaks_as_the_server_takes_it() -> None:
    with foreign() as url:
        target = Target(base_url=url, model="acme/unheard-of-7b")
        found = acceptance.ask(target, ("text", "chat"))
        points = conformance.preflight(acceptance.applied(target, found), way=found.prompts)
    held = {p.name: p.held for p in points}
    assert held["completions with prompts of text"] and "usage.prompt_tokens is exact" not in held
