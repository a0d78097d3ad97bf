"""TensorRT-LLM: options go into one file, its documented options are known, its arguments are read.

No server of it was run: the stand-in (tests/trtllm_server.py) names the places in its source it follows.
"""

import json
from pathlib import Path

import msgspec
import pytest

from engines import trtllm, trtllm_options
from harness import client, models, registry
from harness.errors import InputError
from harness.label import guards
from harness.label.attestation import attest
from harness.launchers import attach
from harness.schema import Evidence, Load, Request, RequestRecord
from harness.server import Running
from tests import trtllm_server
from tests.launching import render, render_variant

FLAT = [
    v.name for v in registry.variants().values() if v.engine == "trtllm" and not trtllm.is_nested(v.version)
]
"""Variants in today's spelling, which the stand-in speaks."""

BANNER = "[TensorRT-LLM] TensorRT LLM version: 1.3.0rc14"
ANNOUNCED = "[11/22/2025-11:20:01] [TRT-LLM] [RANK 0] [I] LLM Args:"
ARGUMENTS = (
    "model='/models/deepseek-r1' tensor_parallel_size=8 dtype='auto' "
    "pipeline_parallel_size=1 gpus_per_node=8 moe_expert_parallel_size=8 enable_attention_dp=True "
    "kv_cache_config=KvCacheConfig(enable_block_reuse=False, max_tokens=None, free_gpu_memory_fraction=0.9, "
    "dtype='fp8') max_batch_size=576 max_num_tokens=1664 max_seq_len=2000 stream_interval=1 "
    "enable_chunked_prefill=False cuda_graph_config=CudaGraphConfig(batch_sizes=[1, 576]) "
    "attn_backend='TRTLLM' moe_config=MoeConfig(backend='CUTLASS', max_num_tokens=None) "
    "torch_compile_config=None speculative_config=None load_format=<LoadFormat.AUTO: 0>"
)
"""str() of a pydantic model, on the line after the one that announces it; names as in TorchLlmArgs."""


def shown(arguments: str = ARGUMENTS) -> Evidence:
    """What a server's log says of itself."""
    return Evidence(log=(BANNER, ANNOUNCED, arguments))


def ask(url: str, target: client.Target, **changes: object) -> RequestRecord:
    """One request through the client that measures."""
    request = Request(request_id="a", max_tokens=4, prompt_token_ids=tuple(range(300, 370)), ignore_eos=True)
    records: list[RequestRecord] = []
    client.fire(target, (msgspec.structs.replace(request, **changes),), Load(), records.append)
    return records[0]


def target_of(url: str, **extras: object) -> client.Target:
    """The client's dialect for TensorRT-LLM."""
    return client.Target(base_url=url, model="deepseek-r1", extras={**trtllm.EXTRAS, **extras})


@pytest.mark.parametrize("name", FLAT)
def test_a_shipped_variant_is_accepted_served_proven_and_counted(name: str, tmp_path: Path) -> None:
    variant, launch = registry.variant(name), render(name)
    with trtllm_server.serving(launch, variant.version) as (url, stand_in):
        for logprobs in (False, True):
            record = ask(url, target_of(url), logprobs=logprobs)
            assert (record.error, record.usage, record.input_len, record.output_len) == ("", True, 70, 4)
            assert record.text == " 370 371 372 373"
            assert bool(record.output_logprobs) == logprobs
        (tmp_path / "log").write_text("\n".join(stand_in.log))
        attached = msgspec.structs.replace(launch, launcher="attach", url=url)
        server = attach.AttachedServer(url + "/health")
        evidence = Running(attached, server, tmp_path / "log", 0).evidence()
        assert evidence.server_info == {"disaggregated_params": {}}
        proof = attest(trtllm.effective(evidence), variant)
        assert proof.valid, proof.reason
        assert trtllm.counters(evidence.metrics) == {"prompt_tokens": 140.0, "generation_tokens": 8.0}
        silent = msgspec.structs.replace(evidence, log=())
        assert trtllm.effective(silent).tensor_parallel_size == 8, "the gauges alone prove the sizes"
        assert trtllm.effective(silent).prefix_cache is False


def test_a_field_that_its_request_model_does_not_have_is_refused_and_named() -> None:
    with trtllm_server.serving(render("trtllm-ep")) as (url, _):
        record = ask(url, client.Target(base_url=url, model="m"))
    assert record.http_status == 400
    assert "'loc': ('body', 'return_token_ids'), 'msg': 'Extra inputs are not permitted'" in record.error


def test_a_prompt_known_from_before_shows_as_cached_tokens() -> None:
    launch = render("trtllm-ep")
    (path,) = launch.files
    options = {**json.loads(launch.files[path]), "kv_cache_config": {"enable_block_reuse": True}}
    reusing = msgspec.structs.replace(launch, files={path: json.dumps(options)})
    with trtllm_server.serving(reusing) as (url, _):
        assert [ask(url, target_of(url)).cached_len for _ in range(2)] == [0, 64]
    with trtllm_server.serving(launch) as (url, _):
        assert [ask(url, target_of(url)).cached_len for _ in range(2)] == [0, 0]


@pytest.mark.parametrize("words", [("--tp-size", "8"), ("--pytorch_backend_config", "x")])
def test_the_stand_in_refuses_what_the_engine_would(words: tuple[str, ...]) -> None:
    launch = render("trtllm-ep")
    wrong = msgspec.structs.replace(launch, argv=(*launch.argv, *words))
    with pytest.raises(trtllm_server.Refused, match="No such option"), trtllm_server.serving(wrong):
        pass


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


def test_arguments_prove_the_label() -> None:
    found = trtllm.effective(shown())
    assert (found.moe_kernel, found.kv_cache_dtype, found.load_format) == ("cutlass", "fp8_e4m3", "auto")
    assert (found.max_num_seqs, found.max_num_batched_tokens, found.speculative) == (576, 1664, "none")
    assert (found.dtype, found.data_parallel_size) == (None, 1), (
        "auto names no dtype, KV's is not the weights'"
    )
    assert attest(found, registry.variant("trtllm-nvidia")).valid
    plain = trtllm.effective(shown(ARGUMENTS.replace("dtype='auto'", "dtype='bfloat16'")))
    assert (plain.dtype, plain.kv_cache_dtype) == ("bfloat16", "fp8_e4m3")


def test_a_kernel_that_is_still_to_be_chosen_is_no_proof() -> None:
    assert trtllm.effective(shown(ARGUMENTS.replace("'CUTLASS'", "'AUTO'"))).moe_kernel is None


@pytest.mark.parametrize("banner", [BANNER, BANNER.replace("TensorRT LLM", "TensorRT-LLM")])
def test_the_banner_alone_names_the_version(banner: str) -> None:
    assert trtllm.effective(Evidence(log=(banner,))).engine_version == "1.3.0rc14"


def test_words_of_the_announcing_line_prove_nothing() -> None:
    assert trtllm.effective(Evidence(log=(ANNOUNCED,))).tensor_parallel_size is None


def test_reuse_that_is_on_is_caught() -> None:
    found = trtllm.effective(shown(ARGUMENTS.replace("enable_block_reuse=False", "enable_block_reuse=True")))
    assert attest(found, registry.variant("trtllm-nvidia")).reason == (
        "prefix_cache: label says False, engine runs True"
    )


def test_silent_log_proves_nothing() -> None:
    silent = Evidence(log=("INFO:     Application startup complete.",), cmdline=("x", "--tp_size", "8"))
    assert not attest(trtllm.effective(silent), registry.variant("trtllm-ep")).valid


def test_gauges_of_load_are_not_read_because_they_show_the_past() -> None:
    assert trtllm.counters("trtllm_num_requests_running 3.0\ntrtllm_kv_cache_utilization 0.5\n") == {}


# --- the spelling before 0.21 ------------------------------------------------------------------------


def test_the_documents_recommendation_is_rendered_as_the_document_has_it() -> None:
    """experiment-log.md of 2025-04-16: sizes as flags, the PyTorch backend's options nested."""
    launch = render("trtllm-2e669133-nvidia")
    words = " ".join(launch.argv)
    for part in (
        "--backend pytorch",
        "--tp_size 8 --ep_size 8",
        "--max_batch_size 576 --max_num_tokens 1664 --max_seq_len 2000",
        "--trust_remote_code",
    ):
        assert part in words
    assert _options("trtllm-2e669133-nvidia") == {
        "enable_attention_dp": True,
        "kv_cache_config": {"enable_block_reuse": False, "free_gpu_memory_fraction": 0.9},
        "pytorch_backend_config": {
            "enable_overlap_scheduler": True,
            "use_cuda_graph": True,
            "cuda_graph_padding_enabled": True,
            "cuda_graph_batch_sizes": [1, 576],
        },
    }
    assert launch.metrics_path == "", "its /metrics is a queue, and it has no Prometheus text"


def test_the_documents_working_version_has_no_graphs_and_no_attention_dp() -> None:
    options = _options("trtllm-2e669133")
    assert options["pytorch_backend_config"] == {"enable_overlap_scheduler": True, "use_cuda_graph": False}
    assert "enable_attention_dp" not in options


def test_an_option_that_old_version_lacks_is_refused_in_words() -> None:
    variant = registry.variant("trtllm-2e669133")
    newer = msgspec.structs.replace(variant, options={**variant.options, "enable_chunked_prefill": True})
    with pytest.raises(
        InputError, match=r"before 0\.21\.0 has no option enable_chunked_prefill; take it out"
    ):
        render_variant(newer)


def test_a_build_that_prints_no_arguments_is_proven_by_its_command_line() -> None:
    """Banner with a hyphen, PyTorchConfig(...), no `LLM Args:`: a public log of 1.1.0rc3, 2025-12-20."""
    launch = render("trtllm-2e669133-nvidia")
    torch = (
        "[12/20/2025-04:20:19] [TRT-LLM] [I] PyTorchConfig(extra_resource_managers={}, use_cuda_graph=True, "
        "cuda_graph_batch_sizes=[1, 576], attn_backend='TRTLLM', moe_backend='CUTLASS', "
        "kv_cache_dtype='auto', torch_compile_enabled=False)"
    )
    evidence = Evidence(log=("[TensorRT-LLM] TensorRT-LLM version: 0.20.0", torch), cmdline=launch.argv)
    found = trtllm.effective(evidence)
    assert attest(found, registry.variant("trtllm-2e669133-nvidia")).valid
    assert (found.cuda_graphs, found.torch_compile, found.kv_cache_dtype) == (True, False, None)
    assert found.proof["expert_parallel_size"] == "its command line: --ep_size 8"
    newer = msgspec.structs.replace(evidence, log=(BANNER,))
    assert trtllm.effective(newer).tensor_parallel_size is None, "one that prints arguments must print them"


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
    ("flag", "version"),
    [
        ("--num_serve_frontends", "1.3.0rc22"),
        ("--num_media_load_workers", "1.3.0rc21"),
        ("--kv_cache_dtype", "1.3.0rc5"),
        ("--served_model_name", "1.3.0rc4"),
        ("--no-telemetry", "1.3.0rc8"),
    ],
)
def test_a_flag_is_dated_by_the_pull_request_that_brought_it(flag: str, version: str) -> None:
    value = () if flag == "--no-telemetry" else ("auto",)
    for pinned, ok in (("1.3.0rc3", False), (version, True)):
        variant = msgspec.structs.replace(registry.variant("trtllm-ep"), version=pinned)
        parsed = trtllm_options.check(variant, render_variant(variant, extra_args=(flag, *value)))
        assert parsed.ok == ok, parsed.error
        assert ok or parsed.error == f"trtllm 1.3.0rc3: {flag} exists since {version}"


def test_a_key_of_a_newer_version_is_named_with_it() -> None:
    variant = msgspec.structs.replace(registry.variant("trtllm-ep"), options={"num_serve_frontends": 2})
    parsed = trtllm_options.check(variant, render_variant(variant))
    assert "key num_serve_frontends exists since 1.3.0rc22" in parsed.error


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


def test_a_revision_is_asked_for_where_the_option_exists_and_else_the_plan_says_that_it_is_not() -> None:
    """A plan off the node names the weights by their Hugging Face id; 2e669133 has no --revision."""
    asked = {}
    for name in ("trtllm-ep", "trtllm-2e669133"):
        variant = registry.variant(name)
        model = models.models()[variant.model]
        launch = render(name, model_path=model.hf_id)
        assert trtllm_options.check(variant, launch).ok
        asked[name] = (
            "--revision" in launch.argv,
            any("no --revision" in w for w in guards.warnings(variant, launch, model)),
        )
    assert asked == {"trtllm-ep": (True, False), "trtllm-2e669133": (False, True)}


def test_counters_come_from_prometheus_only() -> None:
    text = "# TYPE trtllm_generation_tokens counter\ntrtllm_generation_tokens_total 12\n"
    assert trtllm.counters(text) == {"generation_tokens": 12.0}
    assert trtllm.counters('[{"iter": 1}]') == {}
