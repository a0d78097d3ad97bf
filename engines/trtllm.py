"""TensorRT-LLM: how trtllm-serve is launched, and what it shows of itself."""

from __future__ import annotations

import json
import re
from pathlib import PurePosixPath
from typing import Any

from harness.label.dialect import longest, offline, pinned, start_timeout_s
from harness.label.findings import Findings, canonical_dtype, dig, search
from harness.label.findings import counters as find_counters
from harness.schema import Deployment, Effective, Evidence, Launch, Model, Variant

OPTIONS_FILE = "trtllm-options.yaml"

ENFORCED: dict[str, Any] = {
    # There is no endpoint that empties the cache, so reuse must never begin.
    "kv_cache_config": {"enable_block_reuse": False},
    "stream_interval": 1,
    # Mounts /prometheus/metrics.
    "return_perf_metrics": True,
}
"""Options of every launch; they win over a variant's own."""


def launch(deployment: Deployment, variant: Variant) -> Launch:
    """Options go into one file: whether the command line or the file wins changed between versions.

    The file is JSON, which is valid YAML. `--extra_llm_api_options` is in every version, `--config` is not.
    """
    path = str(PurePosixPath(deployment.files, OPTIONS_FILE))
    return Launch(
        argv=(
            *("trtllm-serve", deployment.model_path),
            # Its default is localhost, which nobody outside a container reaches.
            *("--host", deployment.host),
            *("--port", str(deployment.port)),
            *pinned(deployment),
            *_parallel(variant),
            *("--extra_llm_api_options", path),
            *variant.args,
            *deployment.extra_args,
        ),
        env={"DO_NOT_TRACK": "1", **offline(deployment), **variant.env, **deployment.extra_env},
        files={path: json.dumps(options(variant, deployment.model), indent=1, sort_keys=True) + "\n"},
        # /metrics is a JSON list of iterations, drained by whoever reads it.
        metrics_path="/prometheus/metrics",
        ready_timeout_s=start_timeout_s(variant),
    )


def _parallel(variant: Variant) -> tuple[str, ...]:
    sizes = variant.parallel
    flags = ["--tp_size", str(sizes.tensor)]
    if sizes.pipeline > 1:
        flags += ["--pp_size", str(sizes.pipeline)]
    if sizes.expert > 1:
        flags += ["--ep_size", str(sizes.expert)]
    return tuple(flags)


def options(variant: Variant, model: Model) -> dict[str, Any]:
    """Content of the options file: the variant's, attention DP from its sizes, then what every launch has."""
    own: dict[str, Any] = dict(variant.options)
    if variant.parallel.attention_data > 1:
        own["enable_attention_dp"] = True
    if length := longest(variant, model):
        own["max_seq_len"] = length
    return _merged(own, ENFORCED)


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    nested = {
        key: _merged(under[key], value)
        for key, value in over.items()
        if isinstance(value, dict) and isinstance(under.get(key), dict)
    }
    return {**under, **over, **nested}


# --- what runs ---------------------------------------------------------------------------------

EXTRAS: dict[str, Any] = {}
"""Token ids would need detokenize: false, and then the text is empty; the harness re-tokenizes instead."""

_ARGUMENTS = {
    "tensor_parallel_size": ("tensor_parallel_size", r"tensor_parallel_size=(\d+)"),
    "pipeline_parallel_size": ("pipeline_parallel_size", r"pipeline_parallel_size=(\d+)"),
    "expert_parallel_size": ("moe_expert_parallel_size", r"moe_expert_parallel_size=(\d+)"),
    "max_model_len": ("max_seq_len", r"max_seq_len=(\d+)"),
    "max_num_seqs": ("max_batch_size", r"\bmax_batch_size=(\d+)"),
    "max_num_batched_tokens": ("max_num_tokens", r"max_num_tokens=(\d+)"),
    "stream_interval": ("stream_interval", r"stream_interval=(\d+)"),
    "prefix_cache": ("kv_cache_config.enable_block_reuse", r"enable_block_reuse=(True|False)"),
    "chunked_prefill": ("enable_chunked_prefill", r"enable_chunked_prefill=(True|False)"),
    "load_format": ("load_format", r"load_format=<LoadFormat\.(\w+)"),
    "attention_backend": ("attn_backend", r"attn_backend='(\w+)'"),
    "moe_kernel": ("moe_config.backend", r"MoeConfig\(backend='(\w+)'"),
}
"""Field of Effective -> key in /server_info, pattern in the log's line of arguments (a pydantic repr)."""

_ARGUMENT_LINE = r"(?:LLM Args|LlmArgs|llm_args)"

_COUNTERS = {
    "prompt_tokens": ("trtllm_prompt_tokens_total",),
    "generation_tokens": ("trtllm_generation_tokens_total",),
    "running": ("trtllm_num_requests_running",),
    "waiting": ("trtllm_num_requests_waiting",),
    "kv_usage": ("trtllm_kv_cache_utilization",),
}


def effective(evidence: Evidence) -> Effective:
    """From /server_info and the line in which the engine prints its arguments; what neither shows is None."""
    found = Findings()
    found.take("engine_version", evidence.version.get("version"), "/version")
    banner = search(r"TensorRT-LLM version: (\S+)", evidence.log)
    found.take("engine_version", banner and banner[1], banner.string if banner else "")
    lines = [line for line in evidence.log if search(_ARGUMENT_LINE, (line,))]
    for field, (path, pattern) in _ARGUMENTS.items():
        value = dig(evidence.server_info, path)
        found.take(field, value.lower() if isinstance(value, str) else value, f"/server_info {path}={value}")
        match = search(pattern, lines)
        found.take(field, _literal(match[1]) if match else None, match[0] if match else "")
    _derived(found, lines)
    return found.effective()


def _derived(found: Findings, lines: list[str]) -> None:
    if lines:
        found.take("data_parallel_size", 1, "trtllm-serve has no data-parallel replicas")
    dtype = search(r"(?<!\w)dtype='(\w+)'", [re.sub(r"\w+Config\([^()]*\)", "", line) for line in lines])
    if dtype and dtype[1] != "auto":
        found.take("dtype", canonical_dtype(dtype[1]), dtype[0])
    attention = search(r"enable_attention_dp=(True|False)", lines)
    if attention:
        size = found.get("tensor_parallel_size") if attention[1] == "True" else 1
        found.take("attention_data_parallel_size", size, attention[0])
    graphs = search(r"cuda_graph_config=(None|\w*CudaGraphConfig)", lines)
    if graphs:
        found.take("cuda_graphs", graphs[1] != "None", graphs[0])
    compiling = search(r"torch_compile_config=(None|TorchCompileConfig)", lines)
    if compiling:
        found.take("torch_compile", compiling[1] != "None", compiling[0])
    speculative = search(r"speculative_config=(None|\w+)", lines)
    if speculative:
        found.take("speculative", speculative[1].lower(), speculative[0])
    kv = search(r"KvCacheConfig\([^)]*?\bdtype='(\w+)'", lines)
    if kv and kv[1] != "auto":
        found.take("kv_cache_dtype", canonical_dtype(kv[1]), kv[0])


def _literal(word: str) -> Any:
    if word in ("True", "False"):
        return word == "True"
    return int(word) if word.isdigit() else word.lower()


def counters(metrics: str) -> dict[str, float]:
    """The engine's own counters under canonical names; {} unless the text is Prometheus's."""
    return find_counters(metrics, _COUNTERS)
