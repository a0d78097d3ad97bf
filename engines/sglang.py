"""SGLang: how its OpenAI server is launched, and what it shows of itself."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from engines import sglang_recorder
from harness.correctness.scoring_dialects import LOWEST_LOGPROB, Forced, Ids, entry, forced
from harness.errors import AttestationError
from harness.label.dialect import (
    Parser,
    Spellings,
    by_node,
    longest,
    meeting_port,
    offline,
    over_nodes,
    pinned,
    refuse_unknown_options,
    since,
    spell,
    start_timeout_s,
)
from harness.label.findings import Findings, canonical_dtype, dig, literal, search
from harness.label.findings import counters as find_counters
from harness.label.known import Case, Warnings
from harness.schema import HEAD, Deployment, Effective, Evidence, Launch, Model, Sampler, Variant

OPTIONS = (
    *("all2all", "cuda_graph_max_bs", "chunked_prefill_size", "prefix_cache"),
    *("speculative", "kv_offload_gb", "draft", "eagle3"),
)
"""Keys of a variant's `options`; every other setting is a literal argument.

speculative: the flags --speculative-NAME; the draft model is the one that the switch names (draft, eagle3).

chunked_prefill_size: tokens of one attention rank; the flag is for all ranks together, and divided by them.
"""

CUDA_GRAPH_MAX_BS: Spellings = (("", "--cuda-graph-max-bs"), ("0.5.15", "--cuda-graph-max-bs-decode"))

ENV = {
    # Else every GET /health runs a one-token generation, in the middle of a measurement too.
    "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "0",
}

CACHES = {"sglang": ".cache/sglang"}
VARIABLES = ("SGLANG_", "SGL_")
OVERRIDES = {"--json-model-override-args": True}
"""sglang/srt/server_args.py: a dictionary laid over config.json."""
FAKE_FLAGS = {"--ep-dispatch-algorithm": "fake"}
FAKE_VARIABLES = r"SGLANG_SIMULATE_\w+"
FORCED_VARIABLES = r"SGLANG_SIMULATE_ACC_\w+|SGLANG_DSPARK_SIMULATE_FOLD"
"""sglang/srt/environ.py of 0.5.23: SGLANG_SIMULATE_ACC_LEN = EnvFloat(-1), its _METHOD, _TOKEN_MODE."""
PARSER = Parser(program="sglang.launch_server", environment="sglang-cpu", package="sglang")


def launch(deployment: Deployment, variant: Variant) -> Launch:
    """Render the command for the flag dialect of `variant.version`.

    Raises InputError for an option this engine file does not know.
    """
    argv = (
        *(deployment.python or "python3", "-m", "sglang.launch_server"),
        *_serving(deployment),
        *_settings(variant, deployment.model),
        *_speculative(variant, deployment.draft_path),
        *deployment.extra_args,
    )
    return Launch(
        **by_node(variant, lambda node: (*argv, *_of_node(deployment, variant, node))),
        env={**ENV, **offline(deployment), **over_nodes(variant), **deployment.extra_env},
        ready_timeout_s=start_timeout_s(variant),
    )


def _of_node(deployment: Deployment, variant: Variant, node: int) -> tuple[str, ...]:
    """The same on every node but for its number (SGLang's docs, multi_node_deployment)."""
    if variant.nodes == 1:
        return ()
    meeting = ("--dist-init-addr", f"{HEAD}:{meeting_port(deployment.port)}")
    return ("--nnodes", str(variant.nodes), "--node-rank", str(node), *meeting)


def _serving(deployment: Deployment) -> tuple[str, ...]:
    return (
        *("--model-path", deployment.model_path),
        *("--served-model-name", deployment.served_model_name),
        *("--host", deployment.host),
        *("--port", str(deployment.port)),
        *pinned(deployment),
    )


def _settings(variant: Variant, model: Model) -> tuple[str, ...]:
    length = longest(variant, model)
    return (
        *_parallel(variant),
        *_options(variant),
        *(("--context-length", str(length)) if length else ()),
        # The radix cache is on unless it is switched off; the report tells each answer's cached tokens.
        "--enable-cache-report" if variant.options.get("prefix_cache") else "--disable-radix-cache",
        *("--stream-interval", "1"),
        "--enable-metrics",
        # Drawn anew at each start otherwise.
        *("--random-seed", "0"),
        *variant.args,
    )


def _parallel(variant: Variant) -> tuple[str, ...]:
    sizes = variant.parallel
    flags = ["--tp-size", str(sizes.tensor)]
    if sizes.pipeline > 1:
        flags += ["--pp-size", str(sizes.pipeline)]
    if sizes.data > 1:
        flags += ["--dp-size", str(sizes.data)]
    if sizes.attention_data > 1 and since(variant.version, "0.5.22"):
        flags += ["--attn-dp-size", str(sizes.attention_data)]
    elif sizes.attention_data > 1:
        flags += ["--dp-size", str(sizes.attention_data), "--enable-dp-attention"]
    if sizes.expert > 1:
        flags += ["--ep-size", str(sizes.expert)]
    return tuple(flags)


def _speculative(variant: Variant, draft_path: str) -> tuple[str, ...]:
    given = variant.options.get("speculative") or {}
    named = {**given, **({"draft-model-path": draft_path} if draft_path else {})}
    return tuple(word for name, value in named.items() for word in (f"--speculative-{name}", str(value)))


def _options(variant: Variant) -> tuple[str, ...]:
    options = variant.options
    refuse_unknown_options(variant, OPTIONS)
    flags: list[str] = []
    if "all2all" in options:
        flags += ["--moe-a2a-backend", str(options["all2all"])]
    if "cuda_graph_max_bs" in options:
        flags += [spell(variant.version, CUDA_GRAPH_MAX_BS), str(options["cuda_graph_max_bs"])]
    if "chunked_prefill_size" in options:
        tokens = int(options["chunked_prefill_size"]) * variant.parallel.attention_data
        flags += ["--chunked-prefill-size", str(tokens)]
    if "kv_offload_gb" in options:
        flags += ["--enable-hierarchical-cache", "--hicache-size", str(options["kv_offload_gb"])]
    return tuple(flags)


# --- what runs ---------------------------------------------------------------------------------

EXTRAS = {"return_token_ids": True}
SAMPLER = Sampler(joint=True, repetition_of="output", raw_logprobs=False)
"""srt/layers/sampler.py and srt/sampling/penaltylib of 0.5.23, sampling backend pytorch; flashinfer is
joint too, unless min_p is asked for."""

_RESOLVED = {
    "tensor_parallel_size": "tp_size",
    "pipeline_parallel_size": "pp_size",
    "load_format": "load_format",
    "max_num_seqs": "max_running_requests",
    "max_num_batched_tokens": "chunked_prefill_size",
    "stream_interval": "stream_interval",
    "attention_backend": "attention_backend",
    "device": "device",
    "torch_compile": "enable_torch_compile",
    "max_model_len": "context_length",
}
"""Field of Effective -> resolved argument, for values taken as they are."""

_KEYS = (
    *_RESOLVED.values(),
    *("dp_size", "attn_dp_size", "enable_dp_attention", "ep_size", "moe_a2a_backend", "deepep_mode"),
    *("moe_runner_backend", "dtype", "kv_cache_dtype", "quantization", "disable_radix_cache"),
    *("disable_cuda_graph", "speculative_algorithm", "enable_hierarchical_cache"),
)

_READY_LINE = r"chunked_prefill_size=(-?\d+), .*?max_running_requests=(\d+), context_len=(\d+)"
_EP_RANK = r"\bEP(\d+)\]"

_COUNTERS = {
    "prompt_tokens": ("sglang:prompt_tokens_total",),
    "generation_tokens": ("sglang:generation_tokens_total",),
    "prefix_cache_hits": ("sglang:cached_tokens_total",),
    "verifications": ("sglang:spec_verify_calls_total",),
    "preemptions": ("sglang:num_retracted_requests_total", "sglang:num_retracted_reqs"),
    "running": ("sglang:num_running_reqs",),
    "waiting": ("sglang:num_queue_reqs",),
    "kv_usage": ("sglang:token_usage",),
}


def effective(evidence: Evidence) -> Effective:
    """From the resolved arguments (/server_info, else the server_args line) and the scheduler's own lines."""
    found = Findings()
    resolved, source = _resolved(evidence)
    found.take("engine_version", evidence.server_info.get("version"), "/server_info version")
    ready = search(_READY_LINE, evidence.log)
    if ready:
        found.take("max_num_batched_tokens", int(ready[1]), ready[0])
        found.take("max_num_seqs", int(ready[2]), ready[0])
        found.take("max_model_len", int(ready[3]), ready[0])
    pool = search(r"KV Cache is allocated\. dtype: ([\w.]+)", evidence.log)
    found.take("kv_cache_dtype", canonical_dtype(pool[1]) if pool else None, pool[0] if pool else "")
    for field, key in _RESOLVED.items():
        found.take(field, resolved.get(key), f"{source} {key}={resolved.get(key)}")
    loaded = search(r"Load weight end\..*?(?:quant=(\w+)|avail mem)", evidence.log)
    if resolved:
        _layout(found, resolved, source, evidence.log)
        _numbers(found, resolved, source)
    found.take("quantization", (loaded[1] or "none") if loaded else None, loaded[0] if loaded else "")
    return found.effective()


def _resolved(evidence: Evidence) -> tuple[dict[str, Any], str]:
    if "tp_size" in evidence.server_info:
        return evidence.server_info, "/server_info"
    line = search(r"server_args=.*", evidence.log)
    pairs = {key: search(rf"\b{key}'?[=:] ?('[^']*'|[\w.-]+)", (line[0],)) for key in _KEYS} if line else {}
    return {key: literal(match[1]) for key, match in pairs.items() if match}, "server_args"


def _layout(found: Findings, resolved: dict[str, Any], source: str, log: tuple[str, ...]) -> None:
    """Parallel sizes and all2all. Until 0.5.21 one size served both kinds of data parallelism."""
    size, attention = resolved.get("dp_size", 1), resolved.get("attn_dp_size") or 1
    if resolved.get("enable_dp_attention") and attention == 1:
        size, attention = 1, size
    proof = f"{source} dp_size={resolved.get('dp_size')} attn_dp_size={resolved.get('attn_dp_size')}"
    found.take("data_parallel_size", size, proof)
    found.take("attention_data_parallel_size", attention, proof)
    expert, rank = resolved.get("ep_size"), search(_EP_RANK, log)
    if rank or expert == 1 or not log:
        found.take("expert_parallel_size", expert, rank.string if rank else f"{source} ep_size={expert}")
    backend = resolved.get("moe_a2a_backend")
    name = _all2all(backend, resolved.get("deepep_mode"))
    found.take(
        "all2all", name, f"{source} moe_a2a_backend={backend} deepep_mode={resolved.get('deepep_mode')}"
    )
    _moe_kernel(found, resolved.get("moe_runner_backend"), source, log)


def _moe_kernel(found: Findings, runner: Any, source: str, log: tuple[str, ...]) -> None:
    """The runner asked for; "auto" shows itself only when Triton's looks for its tuned configuration."""
    if runner not in (None, "auto"):
        kernel = str(runner).replace("deep_gemm", "deepgemm")
        found.take("moe_kernel", kernel, f"{source} moe_runner_backend={runner}")
    tuned = search(r"Using (?:default )?MoE kernel config.*?triton", log)
    found.take("moe_kernel", "triton" if tuned else None, tuned[0] if tuned else "")


def _all2all(backend: Any, mode: Any) -> str | None:
    """DeepEP's normal kernels are the high-throughput ones of other engines."""
    if backend in (None, "none"):
        return "none"
    if backend not in ("deepep", "mori"):
        return str(backend)
    suffix = {"normal": "ht", "low_latency": "ll", "auto": "auto"}.get(str(mode), str(mode))
    return "mori" if (backend, suffix) == ("mori", "ht") else f"{backend}_{suffix}"


def _numbers(found: Findings, resolved: dict[str, Any], source: str) -> None:
    dtype, kv = canonical_dtype(resolved.get("dtype")), canonical_dtype(resolved.get("kv_cache_dtype"))
    found.take("dtype", None if dtype == "auto" else dtype, f"{source} dtype={resolved.get('dtype')}")
    if kv != "auto":
        found.take("kv_cache_dtype", kv, f"{source} kv_cache_dtype={kv}")
    elif pool := found.get("kv_cache_dtype"):
        found.take("dtype", pool, f"the KV cache follows the model and holds {pool}")
    found.take("kv_cache_dtype", found.get("dtype"), f"{source} kv_cache_dtype=auto")
    found.take("quantization", resolved.get("quantization"), f"{source} quantization")
    cached = resolved.get("disable_radix_cache")
    found.take(
        "prefix_cache", None if cached is None else not cached, f"{source} disable_radix_cache={cached}"
    )
    chunk = found.get("max_num_batched_tokens")
    found.take(
        "chunked_prefill", None if chunk is None else chunk > 0, f"{source} chunked_prefill_size={chunk}"
    )
    algorithm = resolved.get("speculative_algorithm")
    found.take("speculative", str(algorithm or "none").lower(), f"{source} speculative_algorithm={algorithm}")
    offloading = resolved.get("enable_hierarchical_cache")
    found.take(
        "kv_offload",
        None if offloading is None else "cpu" if offloading else "none",
        f"{source} enable_hierarchical_cache={offloading}",
    )
    _graphs(found, resolved, source)


def _graphs(found: Findings, resolved: dict[str, Any], source: str) -> None:
    """The decode phase's graphs; a CPU captures none whatever the arguments say."""
    backend = dig(resolved, "cuda_graph_config.decode.backend")
    off = (
        backend == "disabled" or resolved.get("disable_cuda_graph") is True or resolved.get("device") == "cpu"
    )
    known = backend is not None or resolved.get("disable_cuda_graph") is not None or off
    found.take(
        "cuda_graphs", not off if known else None, f"{source} cuda_graph_config.decode.backend={backend}"
    )


def counters(metrics: str) -> dict[str, float]:
    """The engine's own counters under canonical names, summed over its schedulers."""
    return find_counters(metrics, _COUNTERS)


RECORDER = sglang_recorder
"""Is driven around the trials of a visit whose routing is logged."""


def routed(launch: Launch, layers: str, out: str) -> Launch:
    """The launch with its recorder on, which writes dumps of all layers to the folder `out`."""
    return replace(
        launch,
        argv=(*launch.argv, *sglang_recorder.arguments(launch.accelerator)),
        env={**launch.env, **sglang_recorder.environment(out)},
    )


def flush() -> tuple[str, str]:
    """(method, path) that empties the radix cache; refused while requests run."""
    return "POST", "/flush_cache"


# --- as a reference ----------------------------------------------------------------------------


def scoring(prompt_ids: Ids, output_ids: Ids, model: str, top_k: int) -> tuple[str, dict[str, Any]]:
    """Native /generate asked for logprobs of given tokens.

    It pads the first input position with null, hence one prompt token more.
    """
    body = {
        "input_ids": [*prompt_ids, *output_ids],
        "sampling_params": {"max_new_tokens": 1, "temperature": 0},
        "return_logprob": True,
        "logprob_start_len": max(len(prompt_ids) - 1, 0),
        "top_logprobs_num": max(top_k, 1),
    }
    return "/generate", body


def scored(response: dict[str, Any], prompt_ids: Ids, output_ids: Ids) -> Forced:
    """Reads meta_info.input_token_logprobs [[logprob, id, text]] and input_top_logprobs, aligned at the end.

    Raises AttestationError when positions are missing or belong to other tokens. A rank beyond the
    returned top list is a lower bound.
    """
    meta = response.get("meta_info") or {}
    num = len(output_ids)
    own = (meta.get("input_token_logprobs") or [])[-num:]
    top = (meta.get("input_top_logprobs") or [])[-num:]
    if len(own) != num or len(top) != num or tuple(e[1] for e in own) != tuple(output_ids):
        raise AttestationError(
            f"the reference returned input logprobs for {len(own)} of {num} tokens, or for other tokens; "
            "SGLang needs return_logprob on /generate: choose another reference"
        )
    entries, known = [], []
    for (logprob, token, *_), row in zip(own, top, strict=True):
        best = max([e[0] for e in row or []] + [logprob] if logprob is not None else [], default=None)
        rank = 1 + sum(e[0] > logprob for e in row or []) if logprob is not None else None
        entries.append(entry(logprob, best, rank))
        known.append({int(e[1]): max(e[0], LOWEST_LOGPROB) for e in row or []} | {int(token): entries[-1][0]})
    return forced(entries, known)


# --- what is known to go wrong -----------------------------------------------------------------


def _compile_with_dp_attention(case: Case) -> bool:
    attention_dp = "--enable-dp-attention" in case.flags or case.size("--attn-dp-size") > 1
    return attention_dp and "--enable-torch-compile" in case.flags


def _tied_qwen3_moe(case: Case) -> bool:
    return case.model.tied_embeddings and case.model.architecture == "Qwen3MoeForCausalLM"


def _mori_beyond_deepseek(case: Case) -> bool:
    mori = case.flags.get("--moe-a2a-backend") == "mori"
    return mori and bool(case.model.architecture) and not case.model.architecture.startswith("Deepseek")


WARNINGS: Warnings = (
    (
        _compile_with_dp_attention,
        "torch compile and DP attention fail together in SGLang (sglang #4747); drop --enable-torch-compile",
    ),
    (
        _tied_qwen3_moe,
        "SGLang 0.5.23 ignores tie_word_embeddings of qwen3_moe: it answers 200 with uniform logits; save "
        "the checkpoint untied",
    ),
    (
        _mori_beyond_deepseek,
        "MORI in SGLang is only right for model files that ask for it (DeepSeek); others lost their accuracy "
        "(sglang #32039); look at the agreement before the speed",
    ),
)
