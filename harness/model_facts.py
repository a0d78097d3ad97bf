"""What a checkpoint's config.json and index say of its model: pure functions of their contents.

Keys differ between families, and models of several parts (vision, audio) keep the language model's in
`text_config`: DeepSeek, GLM and Kimi say n_routed_experts, Qwen and Llama num_experts or num_local_experts,
MiniMax, Mixtral and gpt-oss num_local_experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.schema import Model, MoeFacts

Config = Mapping[str, Any]

_NUM_EXPERTS = ("n_routed_experts", "num_experts", "num_local_experts")
_PER_TOKEN = ("num_experts_per_tok", "experts_per_token", "moe_topk")
_EXPERT_SIZE = ("moe_intermediate_size", "intermediate_size")
_LINEARS = 3
"""Matrices of an expert: gate, up and down, each hidden x intermediate."""
_BITS = {"bfloat16": 16.0, "float16": 16.0, "float32": 32.0}
_QUANTISED_BITS = {
    "fp8": 8.0,
    "mxfp4": 4.25,
    "nvfp4": 4.5,
    "int8": 8.0,
    "int4": 4.25,
    "awq": 4.25,
    "gptq": 4.25,
}
"""Bits a quantised weight takes with its scales: 8 bits per 32 of MXFP4 (OCP MX), per 16 of NVFP4, half
precision per 64 or 128 of the integer formats, a rounding error of FP8's blocks."""


def text_of(config: Config) -> Config:
    """The language model's own part, with what only the whole says beside it."""
    part = config.get("text_config") or config.get("llm_config") or config.get("language_config")
    return {**config, **part} if isinstance(part, dict) else config


def max_model_len(config: Config) -> int:
    """Positions, tokens; 0 where none are stated."""
    text = text_of(config)
    return int(text.get("max_position_embeddings") or text.get("max_sequence_length") or 0)


def num_mtp_layers(config: Config) -> int:
    """Layers for multi-token prediction; DeepSeek, GLM and MiMo say num_nextn_predict_layers."""
    return _first(text_of(config), ("num_nextn_predict_layers", "mtp_num_hidden_layers"))


def moe_facts(config: Config) -> MoeFacts | None:
    """Routing shape; None for a dense model."""
    text = text_of(config)
    num_experts = _first(text, _NUM_EXPERTS)
    if num_experts < 2:
        return None
    return MoeFacts(
        num_experts=num_experts,
        num_experts_per_tok=_first(text, _PER_TOKEN),
        num_moe_layers=_num_moe_layers(text),
        hidden_size=_first(text, ("hidden_size",)),
        intermediate_size=_first(text, _EXPERT_SIZE),
    )


def _first(config: Config, keys: tuple[str, ...]) -> int:
    """The first that is stated; 0 for none."""
    return next((int(config[key]) for key in keys if config.get(key)), 0)


def _num_moe_layers(config: Config) -> int:
    """Every n-th layer behind the dense ones, less those named dense; or as a list says, layer by layer."""
    named = config.get("moe_layers")
    if isinstance(named, list):
        return len(named)
    step = (
        config.get("decoder_sparse_step")
        or config.get("moe_layer_freq")
        or config.get("interleave_moe_layer_step")
        or 1
    )
    if isinstance(step, list):
        return sum(map(bool, step))
    layers = _first(config, ("num_hidden_layers",)) - _first(config, ("first_k_dense_replace",))
    return layers // max(1, int(step)) - len(config.get("mlp_only_layers") or ())


def quantisation(config: Config) -> str:
    """fp8, mxfp4, nvfp4, int4, int8, awq, gptq ...; "" for weights as they were trained, or not said."""
    given = config.get("quantization_config") or text_of(config).get("quantization_config")
    if not isinstance(given, dict):
        return ""
    method = str(given.get("quant_method") or given.get("quant_algo") or "").lower()
    if method == "modelopt":
        return str(given.get("quant_algo") or "fp8").lower()
    if method != "compressed-tensors":
        return method
    weights = next((g.get("weights") or {} for g in (given.get("config_groups") or {}).values()), {})
    kind = "fp" if weights.get("type") == "float" else "int"
    bits = weights.get("num_bits")
    return "nvfp4" if (kind, bits) == ("fp", 4) else f"{kind}{bits}" if bits else method


def experts_b(moe: MoeFacts | None) -> float:
    """Parameters of all routed experts, billions; 0 where their shape is not stated."""
    if moe is None:
        return 0.0
    return moe.num_moe_layers * moe.num_experts * _LINEARS * moe.hidden_size * moe.intermediate_size / 1e9


def num_params_b(config: Config, index: Config, weights_gb: float) -> float:
    """Parameters, billions: as the index states them, else from the weights' size and type.

    Of 4-bit formats the experts alone are taken as quantised, the rest as bfloat16 (so gpt-oss has it).
    """
    stated = (index.get("metadata") or {}).get("total_parameters")
    if stated:
        return float(stated) / 1e9
    kind = quantisation(config)
    bits = _QUANTISED_BITS.get(kind, _BITS.get(dtype(config), 16.0))
    experts = experts_b(moe_facts(config))
    if experts and bits < 8:
        return experts + max(0.0, weights_gb - experts * bits / 8) / 2
    return weights_gb * 8 / bits


def experts_share(config: Config, weights_gb: float) -> float:
    """Share of the weights' bytes that the routed experts take, 0 to 1; 0 where it is not known."""
    bits = _QUANTISED_BITS.get(quantisation(config), _BITS.get(dtype(config), 16.0))
    experts_gb = experts_b(moe_facts(config)) * bits / 8
    return min(1.0, experts_gb / weights_gb) if weights_gb else 0.0


def dtype(config: Config) -> str:
    """The type that the weights are stated in; "" where it is not."""
    text = text_of(config)
    return str(text.get("dtype") or text.get("torch_dtype") or "")


def weights_gb(index: Config) -> float:
    """Size of all weight files, 10^9 bytes; 0 where the index does not say."""
    return float((index.get("metadata") or {}).get("total_size") or 0) / 1e9


def fetch_weights(model: Model) -> str:
    """How the weights of a model come to this machine, in words."""
    if not model.hf_id:
        return f"`{model.made_by}` makes them" if model.made_by else "put them where models/models.toml says"
    revision = f" --revision {model.revision}" if model.revision else ""
    fetch = f".venv/bin/hf download {model.hf_id}{revision}"
    return f"`{fetch}` fetches them, or set HF_HOME to a cache that has them"
