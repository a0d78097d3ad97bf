"""TensorRT-LLM: options go into one file, its documented options are known, its argument line is read."""

import json

import msgspec
import pytest

from engines import trtllm
from harness import registry
from harness.label import trtllm_options
from harness.label.attestation import attest
from harness.schema import Evidence
from tests.launching import render, render_variant

ARGUMENTS = (
    "[TRT-LLM] [I] LLM Args: model='/models/deepseek-r1' tensor_parallel_size=8 dtype='auto' "
    "pipeline_parallel_size=1 gpus_per_node=8 moe_expert_parallel_size=8 enable_attention_dp=True "
    "kv_cache_config=KvCacheConfig(enable_block_reuse=False, max_tokens=None, free_gpu_memory_fraction=0.9, "
    "dtype='fp8') max_batch_size=576 max_num_tokens=1664 max_seq_len=2000 stream_interval=1 "
    "enable_chunked_prefill=False cuda_graph_config=CudaGraphConfig(batch_sizes=[1, 576]) "
    "attn_backend='TRTLLM' moe_config=MoeConfig(backend='CUTLASS', max_num_tokens=None) "
    "torch_compile_config=None speculative_config=None load_format=<LoadFormat.AUTO: 0>"
)
"""The shape of the line: a pydantic repr. Field names are those of TorchLlmArgs; no server was run for it."""


def _options(name: str) -> dict[str, object]:
    (content,) = render(name).files.values()
    options: dict[str, object] = json.loads(content)
    return options


def test_options_are_in_the_file_and_not_on_the_command_line() -> None:
    launch = render("trtllm-nvidia")
    assert launch.argv[:2] == ("trtllm-serve", "/models/deepseek-r1")
    assert set(launch.argv) & {"--max_batch_size", "--max_num_tokens", "--max_seq_len"} == set()
    assert launch.argv[launch.argv.index("--extra_llm_api_options") + 1] in launch.files
    assert _options("trtllm-nvidia") == {
        "cuda_graph_config": {"batch_sizes": [1, 576], "enable_padding": True},
        "enable_attention_dp": True,
        "kv_cache_config": {"enable_block_reuse": False, "free_gpu_memory_fraction": 0.9},
        "max_batch_size": 576,
        "max_num_tokens": 1664,
        "max_seq_len": 2000,
        "print_iter_log": True,
        "return_perf_metrics": True,
        "stream_interval": 1,
    }


def test_block_reuse_cannot_be_turned_on() -> None:
    options = {"kv_cache_config": {"enable_block_reuse": True, "dtype": "fp8"}, "stream_interval": 10}
    variant = msgspec.structs.replace(registry.variant("trtllm-ep"), options=options)
    (content,) = render_variant(variant).files.values()
    written = json.loads(content)
    assert written["kv_cache_config"] == {"enable_block_reuse": False, "dtype": "fp8"}
    assert written["stream_interval"] == 1


def test_argument_line_proves_the_label() -> None:
    evidence = Evidence(log=("[TensorRT-LLM] TensorRT-LLM version: 1.3.0rc14", ARGUMENTS))
    shown = trtllm.effective(evidence)
    assert (shown.moe_kernel, shown.kv_cache_dtype, shown.load_format) == ("cutlass", "fp8_e4m3", "auto")
    assert (shown.max_num_seqs, shown.max_num_batched_tokens, shown.speculative) == (576, 1664, "none")
    assert (shown.dtype, shown.data_parallel_size) == (None, 1), (
        "auto names no dtype, KV's is not the weights'"
    )
    assert attest(shown, registry.variant("trtllm-nvidia")).valid
    plain = trtllm.effective(Evidence(log=(ARGUMENTS.replace("dtype='auto'", "dtype='bfloat16'"),)))
    assert (plain.dtype, plain.kv_cache_dtype) == ("bfloat16", "fp8_e4m3")


def test_reuse_that_is_on_is_caught() -> None:
    line = ARGUMENTS.replace("enable_block_reuse=False", "enable_block_reuse=True")
    shown = trtllm.effective(Evidence(log=("[TensorRT-LLM] TensorRT-LLM version: 1.3.0rc14", line)))
    assert attest(shown, registry.variant("trtllm-nvidia")).reason == (
        "prefix_cache: label says False, engine runs True"
    )


def test_silent_log_proves_nothing() -> None:
    shown = trtllm.effective(Evidence(log=("INFO:     Application startup complete.",)))
    assert not attest(shown, registry.variant("trtllm-ep")).valid


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--enable-attention-dp",), "no such option --enable-attention-dp"),
        (("--pytorch_backend_config", "x"), "no such option --pytorch_backend_config"),
        (("--backend", "tensorrt"), "--backend is one of pytorch, _autodeploy, not tensorrt"),
        (("--tp_size",), "--tp_size needs a value"),
        (("--max_batch_size=50", "--trust_remote_code"), ""),
        (("--enable_attention_dp",), ""),
    ],
)
def test_documented_flags(arguments: tuple[str, ...], words: str) -> None:
    parsed = trtllm_options.check(registry.variant("trtllm-ep"), render("trtllm-ep", extra_args=arguments))
    assert parsed.ok == (not words)
    assert words in parsed.error
    assert parsed.error.startswith("trtllm 1.3.0rc14: ") or parsed.ok


def test_flag_of_a_newer_version_is_named_with_it() -> None:
    old = msgspec.structs.replace(registry.variant("trtllm-ep"), version="1.2.1")
    parsed = trtllm_options.check(old, render_variant(old, extra_args=("--enable_attention_dp",)))
    assert parsed.error == "trtllm 1.2.1: --enable_attention_dp exists since 1.3.0rc9"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pytorch_backend_config": {"use_cuda_graph": True}}, "no such key pytorch_backend_config"),
        ({"kv_cache_config": {"block_reuse": False}}, "no such key kv_cache_config.block_reuse"),
        ({"cuda_graph_config": {"cuda_graph_batch_sizes": [1]}}, "cuda_graph_config.cuda_graph_batch_sizes"),
        ({"moe_config": {"backend": "CUTLASS"}}, ""),
    ],
)
def test_documented_keys(options: dict[str, object], words: str) -> None:
    variant = msgspec.structs.replace(registry.variant("trtllm-ep"), options=options)
    parsed = trtllm_options.check(variant, render_variant(variant))
    assert parsed.ok == (not words)
    assert words in parsed.error


@pytest.mark.parametrize("name", [v.name for v in registry.variants().values() if v.engine == "trtllm"])
def test_shipped_variants_use_documented_options(name: str) -> None:
    parsed = trtllm_options.check(registry.variant(name), render(name))
    assert (parsed.ok, parsed.exact, parsed.error) == (True, True, "")


def test_counters_come_from_prometheus_only() -> None:
    text = "# TYPE trtllm_generation_tokens counter\ntrtllm_generation_tokens_total 12\n"
    assert trtllm.counters(text) == {"generation_tokens": 12.0}
    assert trtllm.counters('[{"iter": 1}]') == {}
