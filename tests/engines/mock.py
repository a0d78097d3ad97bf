"""A deterministic engine with scripted faults; also the program that serves it. For tests only."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from harness.label.dialect import meeting_port
from harness.schema import HEAD, Deployment, Effective, Evidence, Launch, Rank, Variant

SCORING = "prompt_logprobs"
KEEPS_NOTHING = True
VARIABLES = ("MOCK_",)
VOCABULARY = 1000

KIND = {"object": "text_completion"}
"""Other tools choose their parser by it."""


def launch(deployment: Deployment, variant: Variant) -> Launch:
    """This very file, served."""
    return Launch(
        argv=(sys.executable, __file__, str(deployment.port), *deployment.extra_args, *variant.args),
        env={
            **variant.env,
            **deployment.extra_env,
            "PYTHONPATH": deployment.root,
            "MOCK_HOST": deployment.host,
            "MOCK_MEETING": f"{HEAD}:{meeting_port(deployment.port)}",
            "MOCK_NODES": str(variant.nodes),
            "MOCK_RANKS": str(variant.parallel.tensor),
        },
        ready_timeout_s=float(variant.env.get("MOCK_READY_S", "20")),
        stop_grace_s=5.0,
        others=tuple(
            Rank(env={"MOCK_MEETING": f"{HEAD}:{meeting_port(deployment.port)}", "MOCK_NODE": str(node)})
            for node in range(1, variant.nodes)
        ),
    )


def effective(evidence: Evidence) -> Effective:
    """It says what it is in its log."""
    dtype = next((line.split("=")[1] for line in evidence.log if line.startswith("dtype=")), None)
    ranks = next((int(line.split("=")[1]) for line in evidence.log if line.startswith("ranks=")), None)
    return Effective(engine_version="1.0", dtype=dtype, tensor_parallel_size=ranks, proof={"dtype": "log"})


def following(ids: list[int]) -> int:
    """The one right next token."""
    return 10 + (sum(ids[-3:]) * 7 + len(ids)) % (VOCABULARY - 10)


class Mock:
    """Counts verified requests and replays; misbehaves as its environment says."""

    def __init__(self) -> None:
        self.seen = 0
        self.made = 0
        self.token_s = float(os.environ.get("MOCK_TOKEN_S", "0.001"))
        self.die_at = int(os.environ.get("MOCK_DIE_AT", "0"))
        self.wrong = bool(os.environ.get("MOCK_WRONG"))
        if os.environ.get("MOCK_WRONG") == "fast":
            self.token_s /= 4
        self.keeps = bool(os.environ.get("MOCK_KEEPS"))
        self.cold = int(os.environ.get("MOCK_COLD", "0"))
        self.kept: set[tuple[int, ...]] = set()

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/completions."""
        body = await request.json()
        prompt = body["prompt"] if isinstance(body["prompt"], list) else [1, 2, *body["prompt"].encode()]
        self.seen += bool(body.get("logprobs") or body.get("prompt_logprobs"))
        if self.die_at and self.seen == self.die_at:
            print("RuntimeError: scripted death", flush=True)
            os._exit(3)
        if body.get("prompt_logprobs") and os.environ.get("MOCK_OOM"):
            return web.json_response({"error": {"message": "CUDA out of memory"}}, status=507)
        if body.get("prompt_logprobs") and os.environ.get("MOCK_SILENT"):
            return web.json_response(self.whole({}, prompt))
        if not body.get("stream"):
            return web.json_response(self.whole(body, prompt))
        return await self.stream(request, body, prompt)

    def whole(self, body: dict[str, Any], prompt: list[int]) -> dict[str, Any]:
        """A plain answer; with prompt_logprobs, the teacher-forced view."""
        choice: dict[str, Any] = {"index": 0, "text": "x", "finish_reason": "length", "token_ids": [1]}
        if body.get("prompt_logprobs") is not None:
            choice["prompt_logprobs"] = [None, *(scored(prompt, i) for i in range(1, len(prompt)))]
        return {**KIND, "choices": [choice], "usage": {"prompt_tokens": len(prompt), "completion_tokens": 1}}

    async def stream(
        self, request: web.Request, body: dict[str, Any], prompt: list[int]
    ) -> web.StreamResponse:
        """One chunk a token."""
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        ids = list(prompt)
        for index in range(body["max_tokens"]):
            await asyncio.sleep(self.token_s * (4 if self.seen <= self.cold else 1))
            token = following(ids) if not (self.wrong and index % 4 == 3) else 9
            ids.append(token)
            self.made += 1
            choice: dict[str, Any] = {"index": 0, "text": f" {token}", "token_ids": [token]}
            if body.get("logprobs"):
                choice["logprobs"] = {
                    "token_logprobs": [-0.105],
                    "tokens": [f" {token}"],
                    "top_logprobs": [{f"token_id:{token}": -0.105}],
                }
            choice["finish_reason"] = "length" if index == body["max_tokens"] - 1 else None
            await answer.write(f"data: {json.dumps({**KIND, 'choices': [choice]})}\n\n".encode())
        if (body.get("stream_options") or {}).get("include_usage"):
            num = {"prompt_tokens": len(prompt), "completion_tokens": body["max_tokens"]}
            counted = {**KIND, "choices": [], "usage": {**num, **self.cached(prompt)}}
            await answer.write(f"data: {json.dumps(counted)}\n\n".encode())
        await answer.write(b"data: [DONE]\n\n")
        return answer

    def cached(self, prompt: list[int]) -> dict[str, Any]:
        """What an engine with a prefix cache says of a prompt it has seen."""
        seen = tuple(prompt) in self.kept
        self.kept.add(tuple(prompt))
        return {"prompt_tokens_details": {"cached_tokens": len(prompt)}} if self.keeps and seen else {}


def scored(ids: list[int], index: int) -> dict[str, Any]:
    """prompt_logprobs entry of one position: the right token has p = 0.9, any other 1e-4."""
    best, token = following(ids[:index]), ids[index]
    entry = {str(best): {"logprob": -0.105, "rank": 1, "decoded_token": ""}}
    if token != best:
        entry[str(token)] = {"logprob": -9.21, "rank": 5, "decoded_token": ""}
    return entry


async def profiled(request: web.Request) -> web.Response:
    """POST /start_profile and /stop_profile: the second writes a trace where the command line says."""
    if request.path == "/stop_profile":
        event = {"ph": "X", "name": "dispatch", "pid": 0, "tid": 0, "ts": 0, "dur": 30.0}
        Path(sys.argv[-1], "rank0.json").write_text(json.dumps({"traceEvents": [event]}))
    return web.Response()


@web.middleware
async def keyed(request: web.Request, handler: Handler) -> web.StreamResponse:
    """401 for whoever does not have the key in MOCK_API_KEY, except for /health."""
    key = os.environ.get("MOCK_API_KEY")
    if key and request.path != "/health" and request.headers.get("Authorization") != f"Bearer {key}":
        return web.json_response({"error": {"message": f"{request.path} needs the key"}}, status=401)
    return await handler(request)


async def healthy(request: web.Request) -> web.Response:
    """GET /health and /v1/models."""
    return web.json_response({"data": [{"id": "mock"}]})


def main() -> None:
    """Serve on the port given; started by hand it is one rank on one node."""
    print(f"dtype=float32\nranks={os.environ.get('MOCK_RANKS', '1')}", flush=True)
    if "MOCK_MEETING" in os.environ:
        host, _, port = os.environ["MOCK_MEETING"].rpartition(":")
        if "MOCK_NODE" in os.environ:
            work(host, int(port))
        met(host, int(port), int(os.environ["MOCK_NODES"]) - 1)
    if cause := os.environ.get("MOCK_EXIT"):
        print(f"Traceback (most recent call last):\n{cause}\nEngine core initialization failed", flush=True)
        sys.exit(1)
    if "MOCK_READY_S" in os.environ:
        print("INFO: thinking about it", flush=True)
        time.sleep(600)
    if key := os.environ.get("MOCK_API_KEY"):
        print(f"started with {sys.argv[1:]} and the key {key}", flush=True)
    serve(application(Mock()))


def met(host: str, port: int, num: int) -> None:
    """Wait for all workers; what they send is read and thrown away."""
    if num:
        with socket.create_server((host, port)) as server:
            for _ in range(num):
                threading.Thread(target=drain, args=(server.accept()[0],), daemon=True).start()


def drain(worker: socket.socket) -> None:
    """Until it hangs up."""
    while worker.recv(1 << 16):
        pass


def work(host: str, port: int) -> None:
    """A worker's whole life: 50 kB to the head, ten times a second, until it hangs up."""
    while True:
        try:
            head = socket.create_connection((host, port))
            break
        except OSError:
            time.sleep(0.05)
    with head:
        while True:
            head.sendall(bytes(50_000))
            time.sleep(0.1)


def application(mock: Mock) -> web.Application:
    """Its endpoints."""
    app = web.Application(client_max_size=2**26, middlewares=[keyed])
    app.router.add_post("/v1/completions", mock.complete)
    app.router.add_post("/start_profile", profiled)
    app.router.add_post("/stop_profile", profiled)
    app.router.add_get("/health", healthy)
    app.router.add_get("/v1/models", healthy)
    return app


def serve(app: web.Application) -> None:
    """On the port given, until it is ended."""
    web.run_app(app, host=os.environ.get("MOCK_HOST", "127.0.0.1"), port=int(sys.argv[1]), print=None)


if __name__ == "__main__":
    main()
