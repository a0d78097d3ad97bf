"""Write a checkpoint that transformers, vLLM, SGLang and llama.cpp's converters read."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen3MoeForCausalLM

from tiny_moe.corpus import END_OF_TURN, stdlib_folder


def amend_json(path: Path, **fields: Any) -> None:
    amended = json.loads(path.read_text(encoding="utf-8")) | fields
    path.write_text(json.dumps(amended, indent=2) + "\n", encoding="utf-8")


def save(model: Qwen3MoeForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """bf16 weights in one file, configuration, tokenizer and, where there is one, Python's licence."""
    model.eval().to(torch.bfloat16).save_pretrained(out, max_shard_size="8GB")
    tokenizer.save_pretrained(out)
    # transformers 5 writes num_local_experts and rope_parameters; others read the older names.
    num_experts, theta = model.config.num_experts, model.config.rope_parameters["rope_theta"]
    amend_json(out / "config.json", num_experts=num_experts, num_local_experts=num_experts, rope_theta=theta)
    amend_json(out / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END_OF_TURN)]
    amend_json(out / "generation_config.json", eos_token_id=ends, pad_token_id=ends[0])
    for weights in out.glob("*.safetensors"):
        weights.chmod(0o644)  # written 0600, which a container's own user cannot read
    licence = stdlib_folder() / "LICENSE.txt"
    if licence.is_file():
        (out / "LICENSE-PYTHON.txt").write_bytes(licence.read_bytes())


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
