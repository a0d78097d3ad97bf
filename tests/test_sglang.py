"""SGLang: launch by version, and what a running one shows."""

from typing import Any

import msgspec
import pytest

from engines import sglang
from harness import registry
from harness.errors import InputError
from harness.label.attestation import attest
from harness.schema import Evidence
from tests.launching import golden_evidence, render, render_variant

RANK_LINE = "[2026-11-20 21:04:11 DP3 TP3 EP3] Load weight begin. avail mem=139.1 GB"
LOADED_LINE = (
    "[2026-11-20 21:09:40 DP0 TP0 EP0] Load weight end. elapsed=329.11 s, type=DeepseekV3ForCausalLM, "
    "quant=fp8, fmt=e4m3, avail mem=36.12 GB, mem usage=102.98 GB."
)
READY_LINE = (
    "[2026-11-20 21:12:02 DP0 TP0 EP0] max_total_num_tokens=401522, chunked_prefill_size=1024, "
    "max_prefill_tokens=16384, max_running_requests=256, context_len=72000, available_gpu_mem=9.31 GB"
)
RESOLVED: dict[str, Any] = {
    "version": "0.5.23",
    "tp_size": 8,
    "pp_size": 1,
    "dp_size": 1,
    "attn_dp_size": 8,
    "enable_dp_attention": True,
    "ep_size": 8,
    "moe_a2a_backend": "deepep",
    "deepep_mode": "auto",
    "moe_runner_backend": "deep_gemm",
    "dtype": "auto",
    "quantization": None,
    "kv_cache_dtype": "fp8_e4m3",
    "load_format": "auto",
    "context_length": 72000,
    "max_running_requests": None,
    "chunked_prefill_size": 8192,
    "disable_radix_cache": True,
    "enable_torch_compile": False,
    "cuda_graph_config": {"decode": {"backend": "full"}, "prefill": {"backend": "disabled"}},
    "speculative_algorithm": None,
    "stream_interval": 1,
    "attention_backend": "fa3",
    "device": "cuda",
}
"""The keys of 0.5.23's /server_info that are read, with values of a DP-attention launch."""

LOG = (RANK_LINE, LOADED_LINE, READY_LINE)


def _shown(log: tuple[str, ...] = LOG, **changes: Any) -> Any:
    return sglang.effective(Evidence(log=log, server_info={**RESOLVED, **changes}))


def test_resolved_arguments_and_scheduler_lines() -> None:
    shown = _shown()
    assert (shown.tensor_parallel_size, shown.data_parallel_size) == (8, 1)
    assert (shown.attention_data_parallel_size, shown.expert_parallel_size) == (8, 8)
    assert (shown.all2all, shown.moe_kernel, shown.quantization) == ("deepep_auto", "deepgemm", "fp8")
    assert (shown.max_model_len, shown.max_num_seqs, shown.max_num_batched_tokens) == (72000, 256, 1024)
    assert (shown.kv_cache_dtype, shown.prefix_cache, shown.chunked_prefill) == ("fp8_e4m3", False, True)
    assert (shown.cuda_graphs, shown.torch_compile, shown.speculative) == (True, False, "none")
    assert attest(shown, registry.variant("sglang-deepep")).valid


def test_real_cpu_server_shows_what_it_runs() -> None:
    """SGLang 0.5.23 on a CPU, started by hand with its radix cache on and a shorter context."""
    shown = sglang.effective(golden_evidence("sglang_cpu"))
    assert (shown.engine_version, shown.device, shown.attention_backend) == ("0.5.23", "cpu", "torch_native")
    assert (shown.dtype, shown.kv_cache_dtype, shown.quantization) == ("bfloat16", "bfloat16", "none")
    assert (shown.cuda_graphs, shown.max_num_seqs, shown.max_num_batched_tokens) == (False, 4096, 4096)
    attested = attest(shown, registry.variant("sglang-cpu"))
    assert attested.reason == "prefix_cache: label says False, engine runs True"


def test_real_h200_server_shows_what_it_runs() -> None:
    """SGLang 0.5.15 on one H200; its arguments say "auto" where the log says what came of it."""
    shown = sglang.effective(golden_evidence("sglang_h200"))
    assert (shown.engine_version, shown.device, shown.attention_backend) == ("0.5.15", "cuda", "fa3")
    assert (shown.dtype, shown.kv_cache_dtype, shown.moe_kernel) == ("bfloat16", "bfloat16", "triton")
    assert (shown.cuda_graphs, shown.prefix_cache, shown.max_model_len) == (True, False, 32768)


def test_counters_of_a_real_server() -> None:
    found = sglang.counters(golden_evidence("sglang_cpu").metrics)
    assert (found["prompt_tokens"], found["generation_tokens"]) == (152.0, 193.0)
    assert found["prefix_cache_hits"] == 90.0


def test_sizes_mean_the_same_before_0_5_22() -> None:
    """One size was shared: with enable_dp_attention it was the attention's."""
    shown = _shown(dp_size=8, attn_dp_size=None)
    assert (shown.data_parallel_size, shown.attention_data_parallel_size) == (1, 8)
    replicas = _shown(dp_size=8, attn_dp_size=None, enable_dp_attention=False)
    assert (replicas.data_parallel_size, replicas.attention_data_parallel_size) == (8, 1)


def test_expert_parallelism_needs_the_ranks_of_the_log() -> None:
    without = tuple(line.replace(" EP3]", "]").replace(" EP0]", "]") for line in LOG)
    assert _shown(log=without).expert_parallel_size is None
    assert _shown(log=without, ep_size=1).expert_parallel_size == 1


@pytest.mark.parametrize(
    ("backend", "mode", "name"),
    [
        ("none", "auto", "none"),
        (None, None, "none"),
        ("deepep", "normal", "deepep_ht"),
        ("deepep", "low_latency", "deepep_ll"),
        ("pplx", "low_latency", "pplx"),
        ("mori", "normal", "mori"),
        ("mori", "low_latency", "mori_ll"),
        ("deepep_v2", "auto", "deepep_v2"),
    ],
)
def test_all2all_names(backend: str | None, mode: str | None, name: str) -> None:
    assert _shown(moe_a2a_backend=backend, deepep_mode=mode).all2all == name


@pytest.mark.parametrize(
    ("changes", "on"),
    [
        ({"cuda_graph_config": {"decode": {"backend": "disabled"}}}, False),
        ({"cuda_graph_config": None, "disable_cuda_graph": True}, False),
        ({"cuda_graph_config": None, "disable_cuda_graph": False}, True),
        ({"cuda_graph_config": None}, None),
        ({"device": "cpu"}, False),
    ],
)
def test_cuda_graphs(changes: dict[str, Any], on: bool | None) -> None:
    assert _shown(**changes).cuda_graphs is on


@pytest.mark.parametrize(
    "line",
    [
        "server_args={'tp_size': 8, 'ep_size': 1, 'dtype': 'bfloat16', 'disable_radix_cache': True}",
        "server_args=ServerArgs(tp_size=8, ep_size=1, dtype='bfloat16', disable_radix_cache=True, dp_size=1)",
    ],
)
def test_arguments_of_the_log_where_the_endpoint_is_closed(line: str) -> None:
    shown = sglang.effective(Evidence(log=(f"[2026-11-20] {line}",)))
    assert (shown.tensor_parallel_size, shown.expert_parallel_size) == (8, 1)
    assert (shown.dtype, shown.prefix_cache) == ("bfloat16", False)


def test_nothing_is_shown_without_log_and_endpoint() -> None:
    shown = sglang.effective(Evidence())
    assert {getattr(shown, f) for f in shown.__struct_fields__ if f != "proof"} == {None}


def test_kv_cache_follows_the_model_unless_said() -> None:
    shown = _shown(dtype="bfloat16", kv_cache_dtype="auto")
    assert (shown.dtype, shown.kv_cache_dtype) == ("bfloat16", "bfloat16")
    assert _shown(dtype="auto", kv_cache_dtype="auto").kv_cache_dtype is None


def test_counters_sum_over_ranks() -> None:
    lines = ["# TYPE sglang:prompt_tokens counter"]
    lines += [f'sglang:prompt_tokens_total{{tp_rank="{i}"}} 21' for i in range(2)]
    assert sglang.counters("\n".join(lines) + "\n") == {"prompt_tokens": 42.0}


@pytest.mark.parametrize(
    ("version", "flags"),
    [
        ("0.5.23", "--attn-dp-size 8"),
        ("0.5.22", "--attn-dp-size 8"),
        ("0.5.21", "--dp-size 8 --enable-dp-attention"),
        ("0.5.15", "--dp-size 8 --enable-dp-attention"),
    ],
)
def test_attention_data_parallelism_by_version(version: str, flags: str) -> None:
    variant = msgspec.structs.replace(registry.variant("sglang-dp"), version=version)
    assert f"--tp-size 8 {flags} --ep-size 8" in " ".join(render_variant(variant).argv)


@pytest.mark.parametrize(
    ("version", "flag"), [("0.5.10", "--cuda-graph-max-bs"), ("0.5.15", "--cuda-graph-max-bs-decode")]
)
def test_graph_batch_size_by_version(version: str, flag: str) -> None:
    variant = msgspec.structs.replace(
        registry.variant("sglang-tp"), version=version, options={"cuda_graph_max_bs": 256}
    )
    argv = render_variant(variant).argv
    assert argv[argv.index(flag) + 1] == "256"


def test_unknown_option_is_named() -> None:
    variant = msgspec.structs.replace(registry.variant("sglang-tp"), options={"a2a": "deepep"})
    with pytest.raises(InputError, match="a2a"):
        render_variant(variant)


def test_health_endpoint_does_not_generate() -> None:
    assert render("sglang-tp").env["SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION"] == "0"
