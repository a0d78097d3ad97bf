"""A checkpoint as the GGUF file that llama.cpp reads. Runs inside that engine's own environment."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

FILE_TYPES = {
    "f32": "ALL_F32",
    "f16": "MOSTLY_F16",
    "bf16": "MOSTLY_BF16",
    "q8_0": "MOSTLY_Q8_0",
    "q4_0": "MOSTLY_Q4_0",
}


def converted(model: Path, kind: str = "f32") -> Path:
    """The checkpoint as a GGUF file of that type, made once per config and size of the weights."""
    weights = model / "model.safetensors"
    state = weights.stat()
    key = f"{(model / 'config.json').read_text(encoding='utf-8')}:{state.st_size}:{state.st_mtime_ns}"
    digest = hashlib.sha256(key.encode()).hexdigest()[:12] + ("" if kind == "f32" else f"-{kind}")
    target = Path(".cache/gguf") / f"{model.name}-{digest}.gguf"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        write_gguf(model, partial, kind)
        partial.replace(target)
    return target


def write_gguf(model: Path, target: Path, kind: str = "f32") -> None:
    """Writes a Qwen3-MoE checkpoint with one weights file. Raises SystemExit for any other model.

    In a type of fewer bits vectors and the router stay f32, as llama.cpp's own converter leaves them.
    """
    import gguf

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") != "qwen3_moe" or not config.get("norm_topk_prob"):
        raise SystemExit(
            f"{model.name}: llama.cpp is offered qwen3_moe checkpoints with norm_topk_prob only (it always "
            "renormalises the top-k weights); choose another engine for this model."
        )
    writer = gguf.GGUFWriter(str(target), "qwen3moe")
    _write_sizes(writer, config, kind)
    _write_tokens(writer, config, json.loads((model / "tokenizer.json").read_text(encoding="utf-8")))
    _write_tensors(writer, config, model / "model.safetensors", kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _num_experts(config: dict[str, Any]) -> int:
    return int(config.get("num_experts") or config["num_local_experts"])


def _write_sizes(writer: Any, config: dict[str, Any], kind: str) -> None:
    import gguf

    rope = config.get("rope_parameters") or config
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_expert_count(_num_experts(config))
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[kind]])


def _write_tokens(writer: Any, config: dict[str, Any], tokenizer: dict[str, Any]) -> None:
    """Byte-level BPE: tokens by id, their types, merges, special ids."""
    import gguf

    text = {i: t for t, i in tokenizer["model"]["vocab"].items()}
    special = {t["id"]: t["content"] for t in tokenizer["added_tokens"]}
    tokens, kinds = [], []
    for i in range(config["vocab_size"]):
        known = special.get(i) or text.get(i)
        tokens.append(known if known is not None else f"<unused{i}>")
        kind = gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL
        kinds.append(kind if known is not None else gguf.TokenType.UNUSED)
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_add_bos_token(False)


_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate": "ffn_gate_inp",
}


def _write_tensors(writer: Any, config: dict[str, Any], weights: Path, kind: str) -> None:
    """Names of the checkpoint -> names of GGUF; the experts of a layer are stacked."""
    import gguf
    import ml_dtypes  # gives numpy its bfloat16
    import numpy as np
    from safetensors import safe_open

    assert ml_dtypes.bfloat16
    with safe_open(weights, "np") as file:

        def tensor(name: str) -> Any:
            return file.get_tensor(name).astype(np.float32)

        def add(name: str, values: Any) -> None:
            whole = kind == "f32" or values.ndim == 1 or "ffn_gate_inp" in name
            form = gguf.GGMLQuantizationType["F32" if whole else kind.upper()]
            data = values if whole else gguf.quants.quantize(values, form)
            writer.add_tensor(name, data, raw_dtype=form)

        add("token_embd.weight", tensor("model.embed_tokens.weight"))
        add("output_norm.weight", tensor("model.norm.weight"))
        add("output.weight", tensor("lm_head.weight"))
        for layer in range(config["num_hidden_layers"]):
            source, block = f"model.layers.{layer}.", f"blk.{layer}."
            for theirs, ours in _LAYER.items():
                add(f"{block}{ours}.weight", tensor(f"{source}{theirs}.weight"))
            for part in ("gate", "up", "down"):
                names = [f"{source}mlp.experts.{e}.{part}_proj.weight" for e in range(_num_experts(config))]
                add(f"{block}ffn_{part}_exps.weight", np.stack([tensor(n) for n in names]))
