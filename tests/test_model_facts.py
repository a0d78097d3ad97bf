"""Any model: what config.json and index say, by alias, folder or Hugging Face id.

The configs below hold the keys that count, with the values of public copies of the published files, which
models/models.toml names (most: ai-dynamo/aiconfigurator 095f58a); none was downloaded here.
MiniMax-M2 has M2.5's here, GLM-4.6 has GLM-4.5's but for its length, DeepSeek-V3.1 has DeepSeek-V3's.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness import model_facts, models, registry
from harness.errors import InputError
from harness.label import feasible
from harness.schema import Gpu, Machine

FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
DEEPSEEK = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "first_k_dense_replace": 3,
    "moe_layer_freq": 1,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "max_position_embeddings": 163840,
    "torch_dtype": "bfloat16",
    "quantization_config": FP8,
}
GPT_OSS = {
    "architectures": ["GptOssForCausalLM"],
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 36,
    "num_local_experts": 128,
    "experts_per_token": 4,
    "num_experts_per_tok": 4,
    "max_position_embeddings": 131072,
    "quantization_config": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
    },
}
QWEN3 = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 48,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "max_position_embeddings": 40960,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}
GLM = {
    "architectures": ["Glm4MoeForCausalLM"],
    "hidden_size": 5120,
    "intermediate_size": 12288,
    "moe_intermediate_size": 1536,
    "num_hidden_layers": 92,
    "first_k_dense_replace": 3,
    "n_routed_experts": 160,
    "num_experts_per_tok": 8,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}
LLAMA4 = {
    "architectures": ["Llama4ForConditionalGeneration"],
    "torch_dtype": "bfloat16",
    "text_config": {
        "hidden_size": 5120,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "num_hidden_layers": 48,
        "num_local_experts": 16,
        "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 1,
        "max_position_embeddings": 10485760,
    },
    "vision_config": {"hidden_size": 1408, "num_hidden_layers": 34},
}
MAVERICK = LLAMA4["text_config"] | {  # type: ignore[operator]
    "num_local_experts": 128,
    "interleave_moe_layer_step": 2,
    "max_position_embeddings": 1048576,
}
MIXTRAL = {
    "architectures": ["MixtralForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 32768,
    "torch_dtype": "bfloat16",
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "deepseek-v3.1": DEEPSEEK,
    "deepseek-v3.2": {**DEEPSEEK, "architectures": ["DeepseekV32ForCausalLM"], "index_topk": 2048},
    "gpt-oss-120b": GPT_OSS,
    "gpt-oss-20b": {**GPT_OSS, "num_hidden_layers": 24, "num_local_experts": 32},
    "qwen3-30b-a3b": QWEN3,
    "qwen3-235b-a22b": {
        **QWEN3,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "moe_intermediate_size": 1536,
        "num_hidden_layers": 94,
    },
    "qwen3-next-80b": {
        **QWEN3,
        "architectures": ["Qwen3NextForCausalLM"],
        "intermediate_size": 5120,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "num_experts": 512,
        "num_experts_per_tok": 10,
        "max_position_embeddings": 262144,
    },
    "glm-4.5": GLM,
    "glm-4.5-air": {
        **GLM,
        "hidden_size": 4096,
        "intermediate_size": 10944,
        "moe_intermediate_size": 1408,
        "num_hidden_layers": 46,
        "first_k_dense_replace": 1,
        "n_routed_experts": 128,
    },
    "glm-4.6": {**GLM, "max_position_embeddings": 202752},
    "kimi-k2": {
        **DEEPSEEK,
        "first_k_dense_replace": 1,
        "n_routed_experts": 384,
        "max_position_embeddings": 262144,
    },
    "llama-4-scout": LLAMA4,
    "llama-4-maverick": {**LLAMA4, "text_config": MAVERICK},
    "minimax-m2": {
        "architectures": ["MiniMaxM2ForCausalLM"],
        "hidden_size": 3072,
        "intermediate_size": 1536,
        "num_hidden_layers": 62,
        "num_local_experts": 256,
        "num_experts_per_tok": 8,
        "max_position_embeddings": 196608,
        "quantization_config": {
            **FP8,
            "fmt": "float8_e4m3fn",
            "modules_to_not_convert": ["gate", "e_score_correction_bias", "lm_head"],
        },
    },
    "mixtral-8x7b": MIXTRAL,
    "mixtral-8x22b": {
        **MIXTRAL,
        "hidden_size": 6144,
        "intermediate_size": 16384,
        "num_hidden_layers": 56,
        "max_position_embeddings": 65536,
    },
}


@pytest.mark.parametrize("alias", PUBLISHED)
def test_an_alias_says_what_the_published_config_says(alias: str) -> None:
    known, config = models.models()[alias], PUBLISHED[alias]
    assert model_facts.moe_facts(config) == known.moe
    assert model_facts.max_model_len(config) == known.max_model_len
    assert model_facts.quantisation(config) == known.quantisation
    assert config["architectures"] == [known.architecture]


@pytest.mark.parametrize("alias", PUBLISHED)
def test_parameters_follow_from_config_and_size(alias: str) -> None:
    """Within 5 % of the model card's rounded figure, which leaves multi-token prediction layers out."""
    known = models.models()[alias]
    counted = model_facts.num_params_b(PUBLISHED[alias], {}, known.weights_gb)
    assert counted == pytest.approx(known.num_params_b, rel=0.05)


def test_an_index_states_sizes_better_than_any_rule() -> None:
    index = {"metadata": {"total_size": 61_064_245_248, "total_parameters": 30_532_122_624}}
    assert model_facts.weights_gb(index) == pytest.approx(61.06, abs=0.01)
    assert model_facts.num_params_b(QWEN3, index, 61.06) == pytest.approx(30.53, abs=0.01)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (None, ""),
        (FP8, "fp8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}},
            },
            "int4",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"g": {"weights": {"num_bits": 8, "type": "float"}}},
            },
            "fp8",
        ),
    ],
)
def test_quantised_checkpoints_are_told_apart(given: dict[str, Any] | None, kind: str) -> None:
    assert model_facts.quantisation({"quantization_config": given}) == kind
    assert model_facts.quantisation({"text_config": {"quantization_config": given}}) == kind


def test_a_dense_model_has_no_routing_shape_and_shares_its_embeddings() -> None:
    config = {"num_hidden_layers": 16, "hidden_size": 2048, "intermediate_size": 8192}
    assert model_facts.moe_facts(config) is None
    assert model_facts.experts_share(config, 6.4) == 0.0
    assert model_facts.num_params_b({**config, "torch_dtype": "bfloat16"}, {}, 6.4) == pytest.approx(3.2)


def put(hub: Path, hf_id: str, config: dict[str, Any], *, weights: bool) -> Path:
    """A snapshot in a Hub cache: config, index and our own tokenizer, with or without weights."""
    folder = hub / f"models--{hf_id.replace('/', '--')}" / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    index = {
        "metadata": {"total_size": 61_064_245_248},
        "weight_map": {"w": "model-00001-of-00001.safetensors"},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(registry.ROOT / "models" / "tiny-moe" / "tokenizer.json", folder)
    if weights:
        (folder / "model-00001-of-00001.safetensors").write_bytes(b"12345678")
    refs = folder.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    return folder


def test_an_id_of_the_cache_is_a_model_with_all_its_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = put(tmp_path, "acme/Qwen3-Like", QWEN3, weights=True)
    model = models.resolve("acme/Qwen3-Like")
    assert (model.alias, model.hf_id, model.path) == ("Qwen3-Like", "acme/Qwen3-Like", str(folder))
    assert model.moe is not None and model.moe.num_experts == 128
    assert (round(model.weights_gb, 1), round(model.num_params_b, 1)) == (61.1, 30.5)
    assert model.max_model_len == 40960 and not model.tied_embeddings
    assert models.name_of(model) == "acme/Qwen3-Like"
    dense = put(tmp_path, "acme/Dense-3B", {"hidden_size": 8, "tie_word_embeddings": True}, weights=True)
    assert models.resolve("acme/Dense-3B").moe is None
    assert models.resolve(f"acme/Dense-3B@{'a' * 40}").path == str(dense)
    assert models.resolve("acme/Dense-3B").tied_embeddings


def test_an_id_or_a_folder_that_is_called_like_an_alias_is_not_that_alias(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    put(tmp_path, "acme/tiny-moe", QWEN3, weights=True)
    assert models.name_of(models.resolve("acme/tiny-moe")) == "acme/tiny-moe"
    folder = tmp_path / "tiny-moe"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert models.name_of(models.resolve(str(folder))) == str(folder)
    assert models.name_of(models.resolve("tiny-moe")) == "tiny-moe"
    assert models.name_of(models.resolve(str(registry.ROOT / "models" / "tiny-moe"))) == "tiny-moe"


def test_config_and_tokenizer_without_weights_are_enough_to_build_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = put(tmp_path, "acme/Far-Away", QWEN3, weights=False)
    model = models.resolve("acme/Far-Away")
    assert (model.path, model.tokenizer) == ("", str(folder))
    assert model.moe is not None
    assert "hf download acme/Far-Away" in feasible.feasible(
        registry.variant("vllm-cpu"), Machine(accelerator="cpu"), model
    )


def test_an_id_that_is_nowhere_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=r"not in the Hub's cache .*HF_HUB_OFFLINE=1.*hf download acme/None"):
        models.resolve("acme/None")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"the Hub is not reachable"):
        models.resolve("acme/None")


def test_an_alias_id_brings_its_pin_and_another_revision_does_not() -> None:
    assert models.resolve("deepseek-ai/DeepSeek-R1").alias == "deepseek-r1"
    assert models.called("deepseek-ai/DeepSeek-R1").revision


def test_what_fits_a_node_follows_from_config_and_layout() -> None:
    """gpt-oss-120b: 61 GB of its 65 are experts; with replicated attention a GPU holds an eighth of them."""
    share = model_facts.experts_share(GPT_OSS, 65.25)
    assert share == pytest.approx(0.933, abs=0.002)
    oss = msgspec.structs.replace(models.models()["gpt-oss-120b"], experts_share=share)
    replicated, split = registry.variant("vllm-deepep-ht"), registry.variant("vllm-tp")
    assert replicated.parallel.data == 8
    assert feasible.weights_per_gpu_gb(replicated, oss) == pytest.approx(65.2 * (share / 8 + 1 - share))
    assert feasible.weights_per_gpu_gb(split, oss) == pytest.approx(65.2 / split.parallel.tensor)
    gpus = tuple(Gpu(index=i, name="H200", memory_gb=141.0) for i in range(8))
    node = Machine(accelerator="cuda", gpus=gpus)
    kimi = models.models()["kimi-k2"]
    assert "kimi-k2 needs about 142 GB on each GPU" in feasible.feasible(split, node, kimi)
    assert "needs about" not in feasible.feasible(split, node, oss)
