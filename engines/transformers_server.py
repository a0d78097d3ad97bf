"""An OpenAI-compatible server over the Oracle: full precision, no field ignored.

It generates for one request at a time; given tokens it scores for as many requests as wait, together.

usage: python -m engines.transformers_server MODEL --port N [--host H] [--name NAME] [--dtype float32]
           [--device cpu] [--threads N]
POST /v1/completions and /v1/chat/completions; GET /health /v1/models /version /server_info /metrics.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
import torch
import transformers

from engines.transformers_oracle import Oracle, Top
from engines.transformers_sampling import Choice, Drawn
from engines.transformers_scoring import Played, Scorer, prompt_logprobs
from engines.transformers_views import Asked, View


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """OpenAI's stream_options."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class Question(msgspec.Struct, forbid_unknown_fields=True):
    """Every field this server understands; any other is answered with 400."""

    model: str = ""
    prompt: str | list[int] | None = None
    messages: list[dict[str, Any]] | None = None
    max_tokens: int = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool = False
    logprobs: int | bool | None = None
    top_logprobs: int = 0
    prompt_logprobs: int | None = None
    prompt_logprobs_from: int = 1
    prompt_logprobs_played: Played | None = None
    prompt_logprobs_drawn: Drawn | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    return_token_ids: bool = False
    return_routed_experts: bool = False
    n: int = 1

    @property
    def choice(self) -> Choice:
        """How tokens are chosen."""
        fields = {name: getattr(self, name) for name in Choice.__struct_fields__ if hasattr(self, name)}
        return Choice(**fields)


class BadRequest(Exception):
    """Answered with 400 and its words."""


class Service:
    """The oracle behind a lock, and what /metrics counts."""

    def __init__(self, oracle: Oracle, name: str) -> None:
        self.oracle, self.name = oracle, name
        self.lock = threading.Lock()
        self.scorer = Scorer(oracle, self.lock)
        self.prompt_tokens = self.generation_tokens = self.waiting = 0

    def prompt_ids(self, question: Question) -> list[int]:
        """Token ids of the prompt. Raises BadRequest."""
        if question.messages is not None:
            text = self.oracle.tokenizer.apply_chat_template(
                question.messages, tokenize=False, add_generation_prompt=True
            )
            ids = self.oracle.tokenizer(text, add_special_tokens=False)["input_ids"]
        elif isinstance(question.prompt, str):
            ids = self.oracle.tokenizer(question.prompt)["input_ids"]
        else:
            ids = question.prompt or []
        if not ids or min(ids) < 0 or max(ids) >= self.oracle.vocab_size:
            raise BadRequest(
                f"prompt must be text or token ids in 0..{self.oracle.vocab_size - 1}, not empty"
            )
        limit = self.oracle.max_model_len
        if limit and len(ids) + question.max_tokens > limit:
            raise BadRequest(f"{len(ids)} prompt + {question.max_tokens} output tokens exceed {limit}")
        return list(ids)


def check(question: Question) -> None:
    """Raises BadRequest for values no engine should accept."""
    if question.n != 1:
        raise BadRequest("n must be 1")
    if question.prompt_logprobs_from < 1:
        raise BadRequest("prompt_logprobs_from must be 1 or more: nothing stands before the first token")
    if question.max_tokens < 0 or question.temperature < 0 or not 0 < question.top_p <= 1:
        raise BadRequest("max_tokens >= 0, temperature >= 0 and 0 < top_p <= 1 are required")
    if not 0 <= question.min_p < 1 or question.repetition_penalty <= 0:
        raise BadRequest("0 <= min_p < 1 and repetition_penalty > 0 are required")


class Answer:
    """One generation in progress; pieces() yields what each chunk says."""

    def __init__(self, service: Service, question: Question, ids: list[int]) -> None:
        self.service, self.question, self.ids = service, question, ids
        self.tops: list[Top] = []
        self.text = ""
        self.finish_reason = "length"
        self.routes: list[list[list[int]]] = []

    def pieces(self) -> Iterator[tuple[str, Top]]:
        """(new text, token) one by one, until length, EOS or a stop string."""
        question, oracle = self.question, self.service.oracle
        oracle.routes.on = question.return_routed_experts
        banned = question.min_tokens
        stops = [question.stop] if isinstance(question.stop, str) else question.stop or []
        steps = oracle.generate(self.ids, question.choice, question.seed, banned, self._num_best())
        while len(self.tops) < question.max_tokens:
            top = next(steps)
            self.routes += oracle.routes.take()
            self.tops.append(top)
            self.service.generation_tokens += 1
            if top.token_id in oracle.eos and not question.ignore_eos:
                self.finish_reason = "stop"
                yield "", top
                return
            yield self._grow(stops), top
            if self.finish_reason == "stop":
                return

    def _grow(self, stops: list[str]) -> str:
        """Text that may be shown after the newest token.

        An unfinished character waits for its other bytes, and what may become a stop string for its rest.
        """
        whole: str = self.service.oracle.tokenizer.decode([t.token_id for t in self.tops])
        found = [whole.index(s) for s in stops if s in whole]
        if found:
            whole, self.finish_reason = whole[: min(found)], "stop"
        last = bool(found) or len(self.tops) == self.question.max_tokens
        if not last and whole.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        held = 0 if last else max((len(s) - 1 for s in stops), default=0)
        shown = max(len(self.text), len(whole) - held)
        new, self.text = whole[len(self.text) : shown], whole[:shown]
        return new

    def _num_best(self) -> int:
        question = self.question
        return question.top_logprobs if question.messages is not None else int(question.logprobs or 0)

    def usage(self) -> dict[str, int]:
        """OpenAI's usage."""
        prompt, completion = len(self.ids), len(self.tops)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }

    def logprobs(self, tops: list[Top]) -> dict[str, Any] | None:
        """The logprobs field, in the shape of the endpoint."""
        if self.question.logprobs is None or self.question.logprobs is False:
            return None
        text = self.service.oracle.text
        if self.question.messages is not None:
            return {"content": [_chat_logprob(t, text) for t in tops]}
        return {
            "tokens": [text(t.token_id) for t in tops],
            "token_logprobs": [t.logprob for t in tops],
            "top_logprobs": [{text(i): value for i, value in t.best} for t in tops],
        }


def _chat_logprob(top: Top, text: Callable[[int], str]) -> dict[str, Any]:
    best = [{"token": text(i), "logprob": value} for i, value in top.best]
    return {"token": text(top.token_id), "logprob": top.logprob, "top_logprobs": best}


def _asked(ids: list[int], question: Question) -> Asked:
    """The positions and parts that a question asks for."""
    first, played = min(question.prompt_logprobs_from, len(ids)), question.prompt_logprobs_played
    asked = Asked(ids, first, question.prompt_logprobs or 0, drawn=question.prompt_logprobs_drawn)
    return played.part(asked) if played else asked


class Handler(BaseHTTPRequestHandler):
    """HTTP/1.1 with keep-alive; streams use chunked encoding."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    service: Service
    facts: dict[str, Any]

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: prompts are the user's."""

    def do_GET(self) -> None:
        """Health, identity and counters."""
        service = self.service
        answers: dict[str, Any] = {
            "/health": {"status": "ok"},
            "/v1/models": {
                "object": "list",
                "data": [
                    {"id": service.name, "object": "model", "max_model_len": service.oracle.max_model_len}
                ],
            },
            "/version": {"version": transformers.__version__},
            "/server_info": self.facts,
        }
        path = self.path.partition("?")[0]
        if path == "/metrics":
            return self._send(200, metrics(service).encode(), "text/plain; version=0.0.4")
        if path not in answers:
            return self._json(404, {"error": {"message": f"no such path: {path}", "code": 404}})
        return self._json(200, answers[path])

    def do_POST(self) -> None:
        """Completions."""
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path not in ("/v1/completions", "/v1/chat/completions"):
            return self._json(404, {"error": {"message": f"no such path: {self.path}", "code": 404}})
        service = self.service
        try:
            question = msgspec.json.decode(content, type=Question)
            check(question)
            ids = service.prompt_ids(question)
        except (msgspec.MsgspecError, BadRequest) as error:
            body = {"message": str(error), "type": "invalid_request_error", "code": 400}
            return self._json(400, {"error": body})
        answer = Answer(service, question, ids)
        service.waiting += 1
        try:
            scored = None if question.prompt_logprobs is None else service.scorer.view(_asked(ids, question))
            with service.lock:
                service.waiting -= 1
                service.prompt_tokens += len(ids)
                self._stream(answer) if question.stream else self._whole(answer, scored)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        except torch.OutOfMemoryError as error:
            self._out_of_memory(answer, error)

    def _out_of_memory(self, answer: Answer, error: Exception) -> None:
        """Said to the client, unless its stream has begun; the next request may fit."""
        torch.cuda.empty_cache()
        words = f"{len(answer.ids)} tokens do not fit this device's memory: {str(error)[:200]}"
        print(words, flush=True)
        if answer.question.stream:
            self.close_connection = True
        else:
            self._json(507, {"error": {"message": words, "type": "out_of_memory", "code": 507}})

    def _whole(self, answer: Answer, scored: View | None) -> None:
        question = answer.question
        text = "".join(piece for piece, _ in answer.pieces())
        choice = _choice(question, text, answer.finish_reason, whole=True)
        choice["logprobs"] = answer.logprobs(answer.tops)
        if scored is not None:
            choice["prompt_logprobs"] = prompt_logprobs(
                self.service.oracle.text, _asked(answer.ids, question), scored
            )
        if scored is not None and question.prompt_logprobs_played:
            choice["played"] = {
                "logprob": scored.twin_logprob,
                "margin": scored.twin_margin,
                "faults": scored.played,
            }
        if scored is not None and question.prompt_logprobs_drawn:
            choice["drawn"] = {**scored.drawn, "faults": scored.drawn_faults}
        if question.return_token_ids:
            choice["token_ids"] = [t.token_id for t in answer.tops]
            choice["prompt_token_ids"] = answer.ids
        if question.return_routed_experts:
            choice["routed_experts"] = answer.routes
        self._json(200, {**_frame(self.service.name, question), "choices": [choice], "usage": answer.usage()})

    def _stream(self, answer: Answer) -> None:
        question = answer.question
        frame = _frame(self.service.name, question)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece, top in answer.pieces():
            last = answer.finish_reason == "stop" or len(answer.tops) == question.max_tokens
            choice = _choice(question, piece, answer.finish_reason if last else None, whole=False)
            choice["logprobs"] = answer.logprobs([top])
            if question.return_token_ids:
                choice["token_ids"] = [top.token_id]
            self._event({**frame, "choices": [choice]})
        if question.stream_options and question.stream_options.include_usage:
            self._event({**frame, "choices": [], "usage": answer.usage()})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _event(self, value: dict[str, Any]) -> None:
        self._chunk(b"data: " + json.dumps(value).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def _json(self, status: int, value: dict[str, Any]) -> None:
        self._send(status, json.dumps(value).encode(), "application/json")

    def _send(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _frame(name: str, question: Question) -> dict[str, Any]:
    chat = question.messages is not None
    kind = "chat.completion" + (".chunk" if question.stream else "") if chat else "text_completion"
    return {"id": f"cmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": name}


def _choice(question: Question, text: str, finish: str | None, *, whole: bool) -> dict[str, Any]:
    if question.messages is None:
        return {"index": 0, "text": text, "finish_reason": finish}
    key = "message" if whole else "delta"
    return {"index": 0, key: {"role": "assistant", "content": text}, "finish_reason": finish}


def metrics(service: Service) -> str:
    """Prometheus text of the four figures the harness reads."""
    running = int(service.lock.locked())
    rows = (
        ("prompt_tokens_total", "counter", service.prompt_tokens),
        ("generation_tokens_total", "counter", service.generation_tokens),
        ("num_requests_running", "gauge", running),
        ("num_requests_waiting", "gauge", service.waiting),
    )
    return "".join(
        f"# TYPE transformers:{name.removesuffix('_total')} {kind}\ntransformers:{name} {value}\n"
        for name, kind, value in rows
    )


class Server(ThreadingHTTPServer):
    """With room for a replay's 32 connections: of the usual five's excess a busy machine resets some."""

    request_queue_size = 128


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", default="")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64", "bfloat16", "float16"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="0 = torch's own choice")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    oracle = Oracle(given.model, given.dtype, given.device)
    Handler.service = Service(oracle, given.name or given.model)
    Handler.facts = {
        "version": transformers.__version__,
        "torch": torch.__version__,
        "dtype": str(oracle.model.dtype).removeprefix("torch."),
        "device": given.device,
        "max_model_len": oracle.max_model_len,
        "load_format": "auto",
    }
    server = Server((given.host, given.port), Handler)
    print(f"reference server {json.dumps(Handler.facts)} on http://{given.host}:{given.port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
