"""A Hugging Face cache with two models that were made here: a dense one, and a mixture of experts.

    python -m tests.hub_cache FOLDER

`HF_HUB_CACHE=FOLDER HF_HUB_OFFLINE=1 just bench vllm-cpu model=made-here/tiny-dense` then takes it by its id.
The dense one is tiny-moe with all experts of a layer side by side in one MLP, as if the router gave each the
same weight: it speaks worse than tiny-moe does, and needs no training. Needs numpy only.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.registry import ROOT
from tests.sabotage.checkpoints import from_bf16, to_bf16

DENSE, MOE = "made-here/tiny-dense", "made-here/tiny-moe"
SOURCE = ROOT / "models" / "tiny-moe"
Bits = npt.NDArray[np.uint16]


def write(cache: Path) -> dict[str, Path]:
    """Both models; id -> its snapshot."""
    return {DENSE: _snapshot(cache, DENSE, _dense), MOE: _snapshot(cache, MOE, _copy)}


def _snapshot(cache: Path, hf_id: str, make: Any) -> Path:
    revision = hashlib.sha1(hf_id.encode()).hexdigest()
    repository = cache / f"models--{hf_id.replace('/', '--')}"
    folder = repository / "snapshots" / revision
    shutil.rmtree(repository, ignore_errors=True)
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        shutil.copyfile(SOURCE / name, folder / name)
    make(folder)
    return folder


def _copy(folder: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(SOURCE / name, folder / name)


def _dense(folder: Path) -> None:
    config = json.loads((SOURCE / "config.json").read_text())
    num = config.pop("num_experts")
    width = num * config.pop("moe_intermediate_size")
    routed = ("num_local_experts", "num_experts_per_tok", "decoder_sparse_step", "mlp_only_layers")
    for name in (*routed, "norm_topk_prob", "output_router_logits", "router_aux_loss_coef"):
        config.pop(name)
    config |= {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "intermediate_size": width}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    source = _read(SOURCE / "model.safetensors")
    kept = {name: bits for name, bits in source.items() if ".mlp." not in name}
    for layer in range(config["num_hidden_layers"]):
        kept |= _mlp(source, f"model.layers.{layer}.mlp", num)
    _write(folder / "model.safetensors", kept)


def _mlp(source: dict[str, Bits], prefix: str, num: int) -> dict[str, Bits]:
    """Experts side by side: gate and up [num x width, hidden], down [hidden, num x width] / num."""
    sides = {"gate_proj": 0, "up_proj": 0, "down_proj": 1}
    found = {
        name: np.concatenate([source[f"{prefix}.experts.{e}.{name}.weight"] for e in range(num)], axis=axis)
        for name, axis in sides.items()
    }
    found["down_proj"] = to_bf16(from_bf16(found["down_proj"]) / np.float32(num))
    return {f"{prefix}.{name}.weight": bits for name, bits in found.items()}


def _read(path: Path) -> dict[str, Bits]:
    """bf16 tensors as bits. Format: 8-byte little-endian header length, JSON header, then the data."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    body = data[8 + length :]
    return {
        name: np.frombuffer(body[slice(*entry["data_offsets"])], "<u2").reshape(entry["shape"])
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _write(path: Path, tensors: dict[str, Bits]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts, at = [], 0
    for name, bits in sorted(tensors.items()):
        parts.append(np.ascontiguousarray(bits, "<u2").tobytes())
        header[name] = {"dtype": "BF16", "shape": [*bits.shape], "data_offsets": [at, at + len(parts[-1])]}
        at += len(parts[-1])
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


if __name__ == "__main__":
    for hf_id, snapshot in write(Path(sys.argv[1])).items():
        print(hf_id, snapshot)
