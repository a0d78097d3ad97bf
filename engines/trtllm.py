"""TensorRT-LLM: how trtllm-serve is launched, and what it shows of itself.

No engine ran here. Facts are from NVIDIA/TensorRT-LLM: its interface references
(tests/unittest/api_stability/references at 029e223d), its source, and logs that others published;
tests/test_trtllm.py names the place of each.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

from engines import trtllm_options
from engines.trtllm_options import FLAT_SINCE, is_nested
from harness.errors import InputError
from harness.label.dialect import longest, offline, pinned, since, start_timeout_s
from harness.label.findings import Findings, canonical_dtype, samples, search
from harness.label.findings import counters as find_counters
from harness.label.known import Case, Warnings
from harness.schema import Deployment, Effective, Evidence, Launch, Model, Rank, Sampler, Variant

OPTIONS_FILE = "trtllm-options.yaml"

ENFORCED: dict[str, Any] = {
    # No endpoint empties the cache, so reuse, on by default, must not begin unless prefix_cache asks for it.
    "kv_cache_config": {"enable_block_reuse": False},
    "stream_interval": 1,
    # Mounts /prometheus/metrics.
    "return_perf_metrics": True,
}
"""Options of every launch; they win over a variant's own."""

SIZES = ("max_batch_size", "max_num_tokens", "max_seq_len")
"""Options that are flags in the nested dialect: in its file they would be given twice."""

NESTED: dict[str, dict[str, str]] = {
    "": {"print_iter_log": "print_iter_log", "attn_backend": "attn_backend"},
    "cuda_graph_config": {
        "batch_sizes": "cuda_graph_batch_sizes",
        "max_batch_size": "cuda_graph_max_batch_size",
        "enable_padding": "cuda_graph_padding_enabled",
    },
    "moe_config": {"backend": "moe_backend"},
}
"""Table of today's options -> key in it -> key in pytorch_backend_config."""

PACKAGE = "tensorrt_llm"
MPI = True
"""Over several nodes its ranks are one world of MPI."""
ANY_OPTION = True
"""A variant's options go into a file whose keys `check` knows."""
VARIABLES = ("TRTLLM_", "TLLM_")
FORCED_VARIABLES = "TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS"
"""NVIDIA/TensorRT-LLM 2cbdaa0f, tensorrt_llm/_torch/speculative/interface.py, lines 1065 to 1078."""
check = trtllm_options.check
"""`plan --check` without a parser: this one does not install beside another engine."""


def launch(deployment: Deployment, variant: Variant) -> Launch:
    """Options go into one file: whether the command line or the file wins changed between versions.

    The file is JSON, which is valid YAML. `--extra_llm_api_options` is in every version, `--config` is not.
    """
    path = str(PurePosixPath(deployment.files, OPTIONS_FILE))
    content, flags = rendered(variant, deployment.model)
    return Launch(
        argv=(
            *_launcher(variant),
            *("trtllm-serve", deployment.model_path),
            # Its default is localhost, which nobody outside a container reaches.
            *("--host", deployment.host),
            *("--port", str(deployment.port)),
            *(() if is_nested(variant.version) else pinned(deployment)),
            *_parallel(variant),
            *flags,
            *("--extra_llm_api_options", path),
            *variant.args,
            *deployment.extra_args,
        ),
        env={"DO_NOT_TRACK": "1", **offline(deployment), **variant.env, **deployment.extra_env},
        files={path: json.dumps(content, indent=1, sort_keys=True) + "\n"},
        # /metrics is a JSON list of iterations, drained by whoever reads it.
        metrics_path="" if is_nested(variant.version) else "/prometheus/metrics",
        ready_timeout_s=start_timeout_s(variant),
        # One world of MPI: all nodes are started with the same words, a task per GPU.
        others=tuple(Rank() for _ in range(1, variant.nodes)),
        mpi="pmix" if variant.nodes > 1 else "",
    )


def _launcher(variant: Variant) -> tuple[str, ...]:
    """Of the tasks of several nodes the first serves, the others wait for its orders (Dynamo's examples)."""
    return ("trtllm-llmapi-launch",) if variant.nodes > 1 else ()


def _parallel(variant: Variant) -> tuple[str, ...]:
    sizes = variant.parallel
    flags = ["--tp_size", str(sizes.tensor)]
    if sizes.pipeline > 1:
        flags += ["--pp_size", str(sizes.pipeline)]
    if sizes.expert > 1:
        flags += ["--ep_size", str(sizes.expert)]
    return tuple(flags)


def rendered(variant: Variant, model: Model) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(content of the options file, flags beside it). A variant's options are written in today's spelling.

    Raises InputError for an option that a version before FLAT_SINCE cannot be given.
    """
    meant = options(variant, model)
    if not is_nested(variant.version):
        return meant, ()
    sizes = {name: meant.pop(name) for name in SIZES if name in meant}
    flags = tuple(word for name, value in sizes.items() for word in (f"--{name}", str(value)))
    return _nested(variant.name, meant), ("--backend", "pytorch", *flags)


def options(variant: Variant, model: Model) -> dict[str, Any]:
    """The options meant: the variant's, attention DP from its sizes, then what every launch has."""
    own: dict[str, Any] = dict(variant.options)
    if variant.parallel.attention_data > 1:
        own["enable_attention_dp"] = True
    if length := longest(variant, model):
        own["max_seq_len"] = length
    reused = {"kv_cache_config": {"enable_block_reuse": bool(own.pop("prefix_cache", False))}}
    return _merged(own, {**ENFORCED, **reused})


def _nested(name: str, meant: dict[str, Any]) -> dict[str, Any]:
    """The same in the spelling before FLAT_SINCE, which has neither stream_interval nor Prometheus text."""
    content: dict[str, Any] = {"kv_cache_config": meant.pop("kv_cache_config")}
    if "enable_attention_dp" in meant:
        content["enable_attention_dp"] = meant.pop("enable_attention_dp")
    for absent in ("stream_interval", "return_perf_metrics"):
        meant.pop(absent)
    graphs = meant.get("cuda_graph_config") is not None
    torch: dict[str, Any] = {
        "use_cuda_graph": graphs,
        "enable_overlap_scheduler": not meant.pop("disable_overlap_scheduler", False),
    }
    for table, keys in NESTED.items():
        given = dict(meant.pop(table, None) or {}) if table else meant
        torch |= {keys[key]: given.pop(key) for key in list(given) if key in keys}
        if table and given:
            meant[table] = given
    if meant:
        raise InputError(
            f"Variant {name}: TensorRT-LLM before {FLAT_SINCE} has no option {', '.join(sorted(meant))}; "
            "take it out, or use a newer version."
        )
    return {**content, "pytorch_backend_config": torch}


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    nested = {
        key: _merged(under[key], value)
        for key, value in over.items()
        if isinstance(value, dict) and isinstance(under.get(key), dict)
    }
    return {**under, **over, **nested}


# --- what runs ---------------------------------------------------------------------------------

EXTRAS: dict[str, Any] = {"return_token_ids": None}
SAMPLER = Sampler(every_token=0)
"""Its request models refuse unknown fields (extra="forbid"). Token ids would need detokenize: false, and then
the text is empty; the harness re-tokenizes instead."""

_ARGUMENTS = {
    "tensor_parallel_size": r"(?<!\w)tensor_parallel_size=(\d+)",
    "pipeline_parallel_size": r"pipeline_parallel_size=(\d+)",
    "expert_parallel_size": r"moe_expert_parallel_size=(\d+)",
    "max_model_len": r"max_seq_len=(\d+)",
    "max_num_seqs": r"\bmax_batch_size=(\d+)",
    "max_num_batched_tokens": r"max_num_tokens=(\d+)",
    "stream_interval": r"stream_interval=(\d+)",
    "prefix_cache": r"enable_block_reuse=(True|False)",
    "chunked_prefill": r"enable_chunked_prefill=(True|False)",
    "load_format": r"load_format=<LoadFormat\.(\w+)",
    "attention_backend": r"attn_backend='(\w+)'",
    # AUTO is the wish of the configuration, not the kernel that was chosen.
    "moe_kernel": r"MoeConfig\(backend='(?!AUTO')(\w+)'",
}
"""Field of Effective -> pattern in the arguments as they are printed: str() of a pydantic model."""

_ANNOUNCED = re.compile(r"\bLLM Args:\s*$")
"""Ends the line before the arguments, which come without the logger's prefix."""

_GAUGES = {
    "tensor_parallel_size": ("trtllm_parallel_config_info", "tensor_parallel_size"),
    "pipeline_parallel_size": ("trtllm_parallel_config_info", "pipeline_parallel_size"),
    "expert_parallel_size": ("trtllm_parallel_config_info", "expert_parallel_size"),
    "prefix_cache": ("trtllm_kv_cache_config_info", "enable_block_reuse"),
    "max_model_len": ("trtllm_model_config_info", "max_model_len"),
}
"""Field of Effective -> gauge that carries the configuration as labels, and its label."""

ARGUMENTS_SINCE = "1.2.0"
"""Releases from here on print their arguments (NVIDIA/TensorRT-LLM #9120, November 2025)."""

_FLAGS = {
    "tensor_parallel_size": "--tp_size",
    "pipeline_parallel_size": "--pp_size",
    "expert_parallel_size": "--ep_size",
    "max_num_seqs": "--max_batch_size",
    "max_num_batched_tokens": "--max_num_tokens",
    "max_model_len": "--max_seq_len",
}

_TORCH = {
    "cuda_graphs": r"use_cuda_graph=(True|False)",
    "torch_compile": r"torch_compile_enabled=(True|False)",
    "attention_backend": r"attn_backend='(\w+)'",
}
"""Field of Effective -> pattern in the line `PyTorchConfig(...)` that versions before 1.2 print."""

# Gauges of load exist with enable_iter_perf_stats only and are renewed when a request ends: a curve of them
# would show the past. They cost work in every step, so no launch turns them on.
_COUNTERS = {
    "prompt_tokens": ("trtllm_prompt_tokens_total",),
    "generation_tokens": ("trtllm_generation_tokens_total",),
}
"""Both count a request when it ends, so they tell totals, not rates."""


def effective(evidence: Evidence) -> Effective:
    """From the line in which the engine prints its arguments, and from gauges that carry them as labels.

    /server_info says nothing of them. What neither shows is None.
    """
    found = Findings()
    found.take("engine_version", evidence.version.get("version"), "/version")
    banner = search(r"TensorRT[- ]LLM version: (\S+)", evidence.log)
    found.take("engine_version", banner and banner[1], banner.string if banner else "")
    lines = _argument_lines(evidence.log)
    for field, pattern in _ARGUMENTS.items():
        match = search(pattern, lines)
        found.take(field, _literal(match[1]) if match else None, match[0] if match else "")
    for field, (gauge, label) in _GAUGES.items():
        for labels, _ in samples(evidence.metrics, gauge):
            value = labels.get(label)
            found.take(field, _literal(value) if value else None, f'{gauge}{{{label}="{value}"}}')
    _derived(found, lines)
    if not lines:
        _before_arguments(found, evidence)
    return found.effective()


def _argument_lines(log: tuple[str, ...]) -> list[str]:
    """The lines after those that end in `LLM Args:`."""
    return [line for before, line in pairwise(log) if _ANNOUNCED.search(before)]


def _before_arguments(found: Findings, evidence: Evidence) -> None:
    """A release that prints no arguments: the PyTorch backend's own line, and the command line it took.

    Its parser refuses flags it does not know, and the engine sizes that the GPUs cannot hold.
    """
    version = found.get("engine_version")
    if version is None or since(version, ARGUMENTS_SINCE):
        return
    words = evidence.cmdline
    for field, flag in _FLAGS.items():
        if flag in words[:-1]:
            value = words[words.index(flag) + 1]
            found.take(field, _literal(value), f"its command line: {flag} {value}")
    torch = [line for line in evidence.log if "PyTorchConfig(" in line]
    for field, pattern in _TORCH.items():
        match = search(pattern, torch)
        found.take(field, _literal(match[1]) if match else None, match[0] if match else "")
    kv = search(r"kv_cache_dtype='(\w+)'", torch)
    if kv and kv[1] != "auto":
        found.take("kv_cache_dtype", canonical_dtype(kv[1]), kv[0])


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


def fits(variant: Variant, input_len: int) -> str:
    """Why a prompt of this length is refused; "" when it is not.

    It takes a whole prompt in one pass unless prefill is chunked (NVIDIA/TensorRT-LLM #3058).
    """
    limit, chunked = (
        int(variant.options.get("max_num_tokens", 0)),
        variant.options.get("enable_chunked_prefill"),
    )
    if limit and input_len > limit and not chunked:
        return f"a prompt of {input_len} tokens exceeds {variant.name}'s max_num_tokens {limit} in one pass"
    return ""


def _unpinned(case: Case) -> bool:
    fetched = bool(case.model.hf_id and case.model.revision) and not case.model.path
    return is_nested(case.variant.version) and fetched


WARNINGS: Warnings = (
    (
        _unpinned,
        "trtllm-serve before 0.21.0 has no --revision: by hand it would fetch the newest weights; fetch the "
        "pinned ones first (`hf download ... --revision`), then the launch names their folder",
    ),
)
