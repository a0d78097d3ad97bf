"""A strict stand-in for trtllm-serve: what a launcher and a client can see of one, without an engine.

Places in NVIDIA/TensorRT-LLM that it follows:

* command line: tests/unittest/api_stability/references/trtllm_serve_cli.yaml at 029e223d;
* request fields: trtllm_serve_api.yaml beside it at 6e8bf6ed, models.CompletionRequest, 41 fields;
* the refusal: issue #9709 (1.2.0rc4), HTTP 400 and its body;
* answer and stream chunks: the same reference, CompletionResponse, CompletionStreamResponse;
* argument line: tensorrt_llm/_torch/pyexecutor/py_executor_creator.py since #9120, f"LLM Args:\n{llm_args}";
* gauges of the configuration: tests of MetricsCollector.log_config_info, since #12545, values as strings;
* log line of an unknown option: tensorrt_llm/llmapi/llm.py at 4c05a748.

Its "model" says token (last + 1) mod 4000, whose text is " n". It remembers prompts, as block reuse does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from harness.registry import ROOT, read_toml
from harness.schema import Launch
from tests.answering import Answering, listening

BLOCK = 32
"""Tokens per KV block: reuse is counted in whole blocks."""


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """stream_options."""

    include_usage: bool | None = True
    continuous_usage_stats: bool | None = False


class CompletionRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Every field of the reference, with its type and default; another one is refused."""

    model: str
    prompt: list[int] | str
    best_of: int | None = None
    echo: bool | None = False
    frequency_penalty: float | None = 0.0
    logit_bias: dict[str, float] | None = None
    logprobs: int | None = None
    max_tokens: int | None = None
    n: int = 1
    presence_penalty: float | None = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    suffix: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    user: str | None = None
    lora_request: Any = None
    prompt_ignore_length: int | None = 0
    use_beam_search: bool = False
    top_k: int = 0
    top_p_min: float = 0.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    early_stopping: bool = False
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    truncate_prompt_tokens: int | None = None
    return_context_logits: bool = False
    detokenize: bool = True
    thinking_token_budget: int | None = None
    add_special_tokens: bool = True
    response_format: Any = None
    disaggregated_params: Any = None
    conversation_params: Any = None


class Refused(Exception):
    """The command line or the options file is not accepted; the text is what would be logged."""


class StandIn:
    """One server: its arguments, its log, and what it has served."""

    def __init__(self, launch: Launch, version: str) -> None:
        self.version = version
        self.arguments = _arguments(launch)
        self.num_prompt_tokens = self.num_output_tokens = 0
        self.seen: set[tuple[int, ...]] = set()
        self.log = (
            f"[TensorRT-LLM] TensorRT LLM version: {version}",
            "[11/22/2025-11:19:23] [TRT-LLM] [I] Using LLM with PyTorch backend",
            "rank 0 using MpiPoolSession to spawn MPI processes",
            "[TensorRT-LLM][INFO] Refreshed the MPI local session",
            "[11/22/2025-11:20:01] [TRT-LLM] [RANK 0] [I] LLM Args:",
            self._printed(),
            "INFO:     Application startup complete.",
        )

    def _printed(self) -> str:
        """str() of a pydantic model: fields by a space, nested models as calls."""
        a = self.arguments
        kv = a.get("kv_cache_config") or {}
        graphs = a.get("cuda_graph_config")
        return (
            f"model={a['model']!r} tokenizer={a['model']!r} tensor_parallel_size={a['tp_size']} dtype='auto' "
            f"pipeline_parallel_size={a.get('pp_size', 1)} gpus_per_node=8 "
            f"moe_expert_parallel_size={a.get('ep_size', -1)} "
            f"enable_attention_dp={a.get('enable_attention_dp', False)} "
            f"kv_cache_config=KvCacheConfig(enable_block_reuse={kv.get('enable_block_reuse', True)}, "
            f"max_tokens=None, free_gpu_memory_fraction={kv.get('free_gpu_memory_fraction', 0.9)}, "
            "enable_partial_reuse=True, dtype='auto', tokens_per_block=32) "
            f"max_batch_size={a.get('max_batch_size', 2048)} max_num_tokens={a.get('max_num_tokens', 8192)} "
            f"max_seq_len={a.get('max_seq_len')} stream_interval={a.get('stream_interval', 1)} "
            f"enable_chunked_prefill={a.get('enable_chunked_prefill', False)} "
            f"cuda_graph_config=CudaGraphConfig(batch_sizes={(graphs or {}).get('batch_sizes')}) "
            "moe_config=MoeConfig(backend='AUTO', max_num_tokens=None) attn_backend='TRTLLM' "
            "torch_compile_config=None speculative_config=None load_format=<LoadFormat.AUTO: 0>"
        )

    @property
    def reuses_blocks(self) -> bool:
        """Its default is on."""
        return bool((self.arguments.get("kv_cache_config") or {}).get("enable_block_reuse", True))

    def complete(self, raw: bytes) -> tuple[int, bytes]:
        """(HTTP status, body) of a POST to /v1/completions."""
        try:
            request = msgspec.json.decode(raw, type=CompletionRequest)
        except msgspec.ValidationError as wrong:
            return 400, _refusal(str(wrong), msgspec.json.decode(raw))
        ids = request.prompt if isinstance(request.prompt, list) else [0] * len(request.prompt.split())
        num = request.max_tokens or 16
        if num < 1:
            return 400, _error("max_tokens must be at least 1")
        cached = self._cached(ids)
        self.num_prompt_tokens += len(ids)
        self.num_output_tokens += num
        usage = {
            "prompt_tokens": len(ids),
            "total_tokens": len(ids) + num,
            "completion_tokens": num,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        first = (ids[-1] if ids else 0) + 1
        tokens = [(first + i) % 4000 for i in range(num)]
        return 200, _answer(request, tokens, usage)

    def _cached(self, ids: list[int]) -> int:
        whole = tuple(ids[: (len(ids) - 1) // BLOCK * BLOCK])
        known = bool(whole) and self.reuses_blocks and whole in self.seen
        self.seen.add(whole)
        return len(whole) if known else 0

    def metrics(self) -> str:
        """Prometheus text: configuration as labels, counters once a request has ended."""
        a = self.arguments
        kv = a.get("kv_cache_config") or {}
        parallel = {
            "tensor_parallel_size": a["tp_size"],
            "pipeline_parallel_size": a.get("pp_size", 1),
            "gpu_count": a["tp_size"],
            **({"expert_parallel_size": a["ep_size"]} if "ep_size" in a else {}),
        }
        text = _info("parallel", parallel) + _info(
            "kv_cache", {"enable_block_reuse": kv.get("enable_block_reuse", True), "cache_dtype": "auto"}
        )
        if self.num_prompt_tokens:
            text += f"trtllm_prompt_tokens_total {self.num_prompt_tokens}.0\n"
            text += f"trtllm_generation_tokens_total {self.num_output_tokens}.0\n"
        return text


def _info(name: str, labels: Mapping[str, Any]) -> str:
    inside = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return f'# TYPE trtllm_{name}_config_info gauge\ntrtllm_{name}_config_info{{pid="7",{inside}}} 1.0\n'


def _arguments(launch: Launch) -> dict[str, Any]:
    """Flags and options file as one table. Raises Refused as click, or the engine, would."""
    flags = read_toml(ROOT / "engines" / "trtllm.options.toml")
    words = iter(launch.argv[2:])
    found: dict[str, Any] = {"model": launch.argv[1]}
    for word in words:
        if word in flags["flags"]["switches"]:
            found[word[2:]] = True
        elif word in flags["flags"]["valued"]:
            value = next(words)
            found[word[2:]] = int(value) if value.isdigit() else value
        else:
            raise Refused(f"Error: No such option: {word}")
    options = json.loads(launch.files[found.pop("extra_llm_api_options")])
    for key in options:
        if key not in flags["keys"]["top"]:
            raise Refused(
                "[TRT-LLM] [E] Failed to parse the arguments for the LLM constructor: "
                f"LLM got invalid argument: {key}"
            )
    return {**found, **options}


def _refusal(wrong: str, given: dict[str, Any]) -> bytes:
    unknown = sorted(set(given) - set(CompletionRequest.__struct_fields__))
    if not unknown:
        return _error(wrong)
    found = [
        {
            "type": "extra_forbidden",
            "loc": ("body", name),
            "msg": "Extra inputs are not permitted",
            "input": given[name],
        }
        for name in unknown
    ]
    return _error(str(found))


def _error(message: str) -> bytes:
    return json.dumps(
        {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": 400}
    ).encode()


def _choice(request: CompletionRequest, tokens: list[int], last: bool) -> dict[str, Any]:
    texts = [f" {t}" for t in tokens]
    logprobs = {
        "text_offset": [0] * len(tokens),
        "token_logprobs": [-0.1] * len(tokens),
        "tokens": texts,
        "top_logprobs": [{t: -0.1} for t in texts],
    }
    return {
        "index": 0,
        "text": "".join(texts) if request.detokenize else "",
        "token_ids": None if request.detokenize else tokens,
        "logprobs": logprobs if request.logprobs else None,
        "finish_reason": "length" if last else None,
        "stop_reason": None,
        "avg_decoded_tokens_per_iter": 1.0,
    }


def _answer(request: CompletionRequest, tokens: list[int], usage: dict[str, Any]) -> bytes:
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": request.model}
    if not request.stream:
        whole = {**head, "choices": [_choice(request, tokens, True)], "usage": usage}
        return json.dumps({**whole, "prompt_token_ids": None}).encode()
    last = len(tokens) - 1
    chunks: list[dict[str, Any]] = [
        {**head, "choices": [_choice(request, [t], i == last)], "usage": None} for i, t in enumerate(tokens)
    ]
    if request.stream_options and request.stream_options.include_usage:
        chunks.append({**head, "choices": [], "usage": usage})
    events = [f"data: {json.dumps(c, separators=(',', ':'))}\n\n" for c in chunks]
    return "".join([*events, "data: [DONE]\n\n"]).encode()


@contextmanager
def serving(launch: Launch, version: str = "1.3.0rc14") -> Iterator[tuple[str, StandIn]]:
    """(base URL, the server) of a running stand-in. Raises Refused for what trtllm-serve would refuse."""
    stand_in = StandIn(launch, version)
    pages = {
        "/health": lambda: b"",
        "/version": lambda: json.dumps({"version": version}).encode(),
        "/server_info": lambda: b'{"disaggregated_params": {}}',
        "/v1/models": lambda: json.dumps({"object": "list", "data": [{"id": "deepseek-r1"}]}).encode(),
        "/metrics": lambda: b"[]",
    }
    if stand_in.arguments.get("return_perf_metrics"):
        pages["/prometheus/metrics"] = lambda: stand_in.metrics().encode()

    class Handler(Answering):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            known = pages.get(self.path.partition("?")[0])
            self._send(200 if known else 404, known() if known else b"", "text/plain")

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["content-length"]))
            status, content = stand_in.complete(raw)
            stream = status == 200 and b'"stream":true' in raw.replace(b" ", b"")
            self._send(status, content, "text/event-stream" if stream else "application/json")

        def _send(self, status: int, content: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with listening(Handler) as url:
        yield url, stand_in
