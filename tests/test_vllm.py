"""vLLM: launch by version, and what a running one shows."""

import json
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engines import vllm
from harness import plan, registry, server
from harness.errors import InputError
from harness.host import engine_env
from harness.planned import launching
from harness.schema import Evidence, Machine, Parallel, Recipe, Variant
from tests.launching import golden_evidence, render, render_variant

EVIDENCE = golden_evidence("vllm_cpu")
"""What vLLM 0.32.0 on a CPU showed, serving the tiny MoE; lines and keys nobody reads are left out."""

STARTED = "INFO Initializing a V1 LLM engine (v0.32.0) with config: model='m', tensor_parallel_size=8,"
EP_LINE = (
    "(Worker) INFO [expert_map_manager.py:251] [EP Rank 0/8] Expert parallelism is enabled. Expert placement "
    "strategy: linear. Local/global number of experts: 32/256. Experts local to global index map: 0->0."
)
NO_EP_LINE = "(Worker) INFO rank 0 in world size 8 is assigned as DP rank 0, PP rank 0, TP rank 0, EP rank 0"
MORI_LINE = "(Worker) INFO [cuda_communicator.py:281] Using MoriAll2AllManager all2all manager."
AITER_LINE = "INFO [fp8.py:418] Using AITER Fp8 MoE backend out of potential backends: ['AITER', 'TRITON']."


def _config(**parallel: Any) -> dict[str, Any]:
    return {"vllm_config": {"parallel_config": parallel}}


def test_real_cpu_server_shows_what_it_runs() -> None:
    shown = vllm.effective(EVIDENCE)
    assert shown.engine_version == "0.32.0"
    assert (shown.tensor_parallel_size, shown.data_parallel_size, shown.expert_parallel_size) == (1, 1, 1)
    assert (shown.dtype, shown.kv_cache_dtype, shown.quantization) == ("bfloat16", "bfloat16", "none")
    assert (shown.prefix_cache, shown.cuda_graphs, shown.torch_compile) == (False, False, False)
    assert (shown.max_model_len, shown.max_num_seqs, shown.max_num_batched_tokens) == (4096, 32, 2048)
    assert (shown.all2all, shown.moe_kernel, shown.speculative, shown.device) == (
        "none",
        "cpu",
        "none",
        "cpu",
    )
    assert shown.proof["moe_kernel"].endswith("potential backends: ['CPU'].")


def test_real_h200_server_shows_what_it_runs() -> None:
    """vLLM 0.24.0 on one H200, compiled, with graphs."""
    shown = vllm.effective(golden_evidence("vllm_h200"))
    assert (shown.engine_version, shown.device) == ("0.24.0", "cuda")
    assert (shown.moe_kernel, shown.attention_backend) == ("triton", "flash_attn")
    assert (shown.cuda_graphs, shown.torch_compile, shown.prefix_cache) == (True, True, False)
    assert (shown.expert_parallel_size, shown.all2all, shown.kv_cache_dtype) == (1, "none", "bfloat16")


def test_start_line_alone_shows_nearly_as_much() -> None:
    """Without development mode there is no /server_info."""
    bare = msgspec.structs.replace(EVIDENCE, server_info={}, version={}, metrics="")
    shown, full = vllm.effective(bare), vllm.effective(EVIDENCE)
    unlike = {f for f in full.__struct_fields__ if getattr(shown, f) != getattr(full, f)} - {"proof"}
    assert unlike == {"max_num_seqs", "max_num_batched_tokens", "stream_interval"}


def test_prefix_cache_is_read_from_metrics_when_nothing_else_shows_it() -> None:
    only_metrics = Evidence(metrics=EVIDENCE.metrics)
    assert vllm.effective(only_metrics).prefix_cache is False


def test_nothing_is_shown_by_an_endpoint_without_log_and_config() -> None:
    shown = vllm.effective(Evidence())
    assert {getattr(shown, f) for f in shown.__struct_fields__ if f != "proof"} == {None}


def test_mori_is_proven_by_both_lines() -> None:
    shown = vllm.effective(Evidence(log=(STARTED, EP_LINE, MORI_LINE, AITER_LINE)))
    assert (shown.expert_parallel_size, shown.all2all, shown.moe_kernel) == (8, "mori", "aiter")


def test_tp8_with_a_mori_flag_runs_without_mori() -> None:
    """The flag is in the configuration, the manager is not in the log."""
    info = _config(all2all_backend="mori_high_throughput", enable_expert_parallel=True)
    shown = vllm.effective(Evidence(log=(STARTED, EP_LINE), server_info=info))
    assert (shown.expert_parallel_size, shown.all2all) == (8, "none")


def test_manager_line_without_expert_parallelism_proves_no_ep() -> None:
    info = _config(all2all_backend="mori_high_throughput", enable_expert_parallel=False)
    shown = vllm.effective(Evidence(log=(STARTED, NO_EP_LINE, MORI_LINE), server_info=info))
    assert shown.expert_parallel_size == 1


def test_expert_parallelism_asked_for_but_not_logged_is_unproven() -> None:
    shown = vllm.effective(Evidence(log=(STARTED,), server_info=_config(enable_expert_parallel=True)))
    assert shown.expert_parallel_size is None


@pytest.mark.parametrize(
    ("manager", "configured", "name"),
    [
        ("MoriAll2AllManager", "mori_low_latency", "mori_ll"),
        ("MoriAll2AllManager", "mori_high_throughput", "mori"),
        ("DeepEPHTAll2AllManager", "deepep_high_throughput", "deepep_ht"),
        ("DeepEPLLAll2AllManager", "deepep_low_latency", "deepep_ll"),
        ("AgRsAll2AllManager", "allgather_reducescatter", "allgather_reducescatter"),
        ("allgather_reducescatter", "allgather_reducescatter", "allgather_reducescatter"),
        ("FlashInferNVLinkOneSidedManager", "flashinfer_nvlink_one_sided", "flashinfer_nvlink_one_sided"),
    ],
)
def test_all2all_is_named_after_the_manager_that_was_built(manager: str, configured: str, name: str) -> None:
    log = (STARTED, f"INFO Using {manager} all2all manager.")
    assert vllm.effective(Evidence(log=log, server_info=_config(all2all_backend=configured))).all2all == name


@pytest.mark.parametrize(
    ("line", "kernel"),
    [
        ("Using TRITON Unquantized MoE backend out of potential backends: ['TRITON'].", "triton"),
        ("Using ROCm AITER Unquantized MoE backend out of potential backends: []", "aiter"),
        ("Using FlashInfer CUTLASS Unquantized MoE backend out of", "flashinfer_cutlass"),
        ("Using DEEPGEMM Fp8 MoE backend out of potential backends", "deepgemm"),
        ("Using 'MARLIN' Mxfp4 MoE backend.", "marlin"),
    ],
)
def test_moe_kernel_names(line: str, kernel: str) -> None:
    assert vllm.effective(Evidence(log=(line,))).moe_kernel == kernel


@pytest.mark.parametrize(
    ("mode", "on"), [(0, False), ("NONE", False), ([2, 0], True), (3, True), ([0, 0], False)]
)
def test_cuda_graph_modes(mode: object, on: bool) -> None:
    info = {"vllm_config": {"compilation_config": {"cudagraph_mode": mode}}}
    assert vllm.effective(Evidence(server_info=info)).cuda_graphs is on


def test_speculative_method() -> None:
    info = {"vllm_config": {"speculative_config": {"method": "eagle3"}}}
    assert vllm.effective(Evidence(server_info=info)).speculative == "eagle3"


def test_counters_sum_over_data_parallel_engines() -> None:
    lines = ["# TYPE vllm:generation_tokens counter"]
    lines += [f'vllm:generation_tokens_total{{engine="{i}"}} {n}' for i, n in ((0, 10), (1, 32))]
    lines += ["# TYPE vllm:kv_cache_usage_perc gauge"]
    lines += [f'vllm:kv_cache_usage_perc{{engine="{i}"}} {n}' for i, n in ((0, 0.5), (1, 0.25))]
    assert vllm.counters("\n".join(lines) + "\n") == {"generation_tokens": 42.0, "kv_usage": 0.5}


def test_counters_of_a_real_server() -> None:
    found = vllm.counters(EVIDENCE.metrics)
    assert found["prompt_tokens"] > 0
    assert (found["prefix_cache_hits"], found["preemptions"]) == (0.0, 0.0)


def test_counters_of_something_else_are_empty() -> None:
    assert vllm.counters("<html>not found</html>") == {}


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("mori-ep-aiter-fix", "mori_ep"),
        ("0.24.0", "mori_high_throughput"),
        ("0.32.0", "mori_high_throughput"),
    ],
)
def test_mori_is_spelt_as_the_version_knows_it(version: str, name: str) -> None:
    variant = msgspec.structs.replace(registry.variant("vllm-mori"), version=version)
    argv = render_variant(variant).argv
    assert argv[argv.index("--all2all-backend") + 1] == name


def test_extra_arguments_and_environment_win() -> None:
    launch = render("vllm-cpu", extra_args=("--max-num-seqs", "4"), extra_env={"VLLM_CPU_KVCACHE_SPACE": "2"})
    assert launch.argv[-2:] == ("--max-num-seqs", "4")
    assert launch.env["VLLM_CPU_KVCACHE_SPACE"] == "2"


def test_container_listens_inside_and_is_reached_on_loopback() -> None:
    launch = render("vllm-mori", port=8123)
    assert launch.argv[launch.argv.index("--host") + 1] == "0.0.0.0"
    assert (launch.base_url, launch.num_gpus) == ("http://127.0.0.1:8123", 8)


def test_weights_that_are_here_are_never_fetched() -> None:
    assert render("vllm-cpu").env["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in render("vllm-mori").env


def test_unknown_option_is_named() -> None:
    variant = Variant(
        name="v",
        engine="vllm",
        source="",
        accelerator="cpu",
        version="0.32.0",
        model="tiny-moe",
        options={"all_to_all": "mori"},
        parallel=Parallel(),
    )
    with pytest.raises(InputError, match="all_to_all"):
        render_variant(variant)


@pytest.mark.engine
def test_the_documents_own_request_is_answered(tmp_path: Path) -> None:
    """mori-ep-aiter-debug-notes.md asks for the model by its Hugging Face id, with curl."""
    engine_env.ensure("vllm-cpu", registry.ROOT, lambda _: None)
    recipe = Recipe(question="", variants=("vllm-cpu",))
    (planned,) = plan.plan(recipe, Machine(environments=("vllm-cpu",)))
    known = msgspec.structs.replace(planned.deployment, also_served_as=("deepseek-ai/DeepSeek-R1",))
    launch = launching(
        msgspec.structs.replace(planned, deployment=known), server.free_port(), tmp_path
    ).launch
    body = '{"model": "%s", "prompt": "What is 2+2?", "max_tokens": 20, "temperature": 0}'
    with server.serving(launch, tmp_path / "server.log", "test"):
        for name in ("deepseek-ai/DeepSeek-R1", "tiny-moe"):
            url, kind = f"{launch.base_url}/v1/completions", "Content-Type: application/json"
            words = ["curl", "-s", url, "-H", kind, "-d", body % name]
            answer = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
            assert answer["usage"]["completion_tokens"] == 20
