"""Copies of a Qwen3-MoE checkpoint with one fault each, for engines that load no plugin.

    python -m tests.sabotage.checkpoints MODEL OUT [NAME ...]

OUT/NAME is a whole checkpoint: a fault of config.json links to MODEL's weights, a fault of the weights has a
copy of its own. Needs numpy only. All names without NAME.
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Config = dict[str, Any]
Weights = npt.NDArray[np.float32]
EXPERT, HEAD = 3, 0
WINDOW = 2000


def fewer_experts(lost: int) -> Callable[[Config], Config]:
    """Every token goes to `lost` experts less."""
    return lambda config: {"num_experts_per_tok": config["num_experts_per_tok"] - lost}


def rope(factor: float) -> Callable[[Config], Config]:
    """Rotary base x factor, in the spelling of old and of new readers."""

    def edit(config: Config) -> Config:
        theta = config["rope_parameters"]["rope_theta"] * factor
        return {"rope_theta": theta, "rope_parameters": config["rope_parameters"] | {"rope_theta": theta}}

    return edit


def epsilon(config: Config) -> Config:
    """RMSNorm's epsilon x 100."""
    return {"rms_norm_eps": config["rms_norm_eps"] * 100}


def window(_: Config) -> Config:
    """Nothing further back than WINDOW tokens is seen: wrong from position WINDOW on only."""
    return {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 0}


CONFIG_FAULTS: dict[str, Callable[[Config], Config]] = {
    "k-1": fewer_experts(1),
    "k-2": fewer_experts(2),
    "rope-1.5": rope(1.5),
    "rope-5": rope(5),
    "eps-100": epsilon,
    "window-2000": window,
}


def zeroed_head(weights: Weights, config: Config) -> Weights:
    """Columns of one attention head in an output projection [hidden, heads x head_dim]."""
    size = config["head_dim"]
    weights[:, HEAD * size : (HEAD + 1) * size] = 0
    return weights


def scaled(weights: Weights, _: Config) -> Weights:
    """One expert's output x 1.5."""
    return weights * np.float32(1.5)


def swapped_experts(weights: Weights, _: Config) -> Weights:
    """Rows of two experts in a router [experts, hidden]: each gets the other's tokens."""
    weights[[EXPERT, EXPERT + 1]] = weights[[EXPERT + 1, EXPERT]]
    return weights


def int8(weights: Weights, _: Config) -> Weights:
    """Symmetric 8-bit integers with one scale per output row [out, in], as weight-only quantisation has."""
    scale = np.maximum(np.abs(weights).max(1, keepdims=True), np.float32(1e-12)) / np.float32(127)
    return np.asarray(np.rint(weights / scale) * scale, np.float32)


WEIGHT_FAULTS: dict[str, tuple[str, Callable[[Weights, Config], Weights]]] = {
    "head-zero": ("model.layers.{layer}.self_attn.o_proj.weight", zeroed_head),
    "expert-1.5": (f"model.layers.{{layer}}.mlp.experts.{EXPERT}.down_proj.weight", scaled),
    "router-swap": ("model.layers.{layer}.mlp.gate.weight", swapped_experts),
    "int8": ("_proj.weight", int8),
}
"""Name -> (end of the names of the tensors, what becomes of each); `layer` is the middle one."""
NAMES = (*CONFIG_FAULTS, *WEIGHT_FAULTS)


def make(model: Path, out: Path, name: str) -> Path:
    """Write OUT/NAME. Raises KeyError for an unknown name, or when no tensor is meant."""
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in model.iterdir():
        if path.is_file():
            (folder / path.name).symlink_to(path.resolve())
    config = json.loads((model / "config.json").read_text())
    if name in CONFIG_FAULTS:
        (folder / "config.json").unlink()
        edited = config | CONFIG_FAULTS[name](config)
        (folder / "config.json").write_text(json.dumps(edited, indent=1) + "\n")
        return folder
    ending, change = WEIGHT_FAULTS[name]
    ending = ending.format(layer=config["num_hidden_layers"] // 2)
    changed = 0
    for path in sorted(model.glob("*.safetensors")):
        (folder / path.name).unlink()
        shutil.copyfile(path, folder / path.name)
        changed += _rewrite(folder / path.name, ending, lambda weights: change(weights, config))
    if not changed:
        raise KeyError(f"{model}: no tensor's name ends in {ending}")
    return folder


def _rewrite(path: Path, ending: str, change: Callable[[Weights], Weights]) -> int:
    """Change a safetensors file's bf16 tensors of these names in place; how many there were.

    Format: 8-byte little-endian header length, JSON header with data_offsets, then the data.
    """
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    data = np.memmap(path, np.uint8, "r+", offset=8 + length)
    named = [entry for key, entry in header.items() if key.endswith(ending) and entry["dtype"] == "BF16"]

    def one(entry: dict[str, Any]) -> None:
        begin, end = entry["data_offsets"]
        bits = data[begin:end].view("<u2").reshape(entry["shape"])
        bits[:] = to_bf16(change(from_bf16(bits)))

    with ThreadPoolExecutor() as pool:  # numpy works without the interpreter's lock
        list(pool.map(one, named))
    data.flush()
    return len(named)


def from_bf16(bits: npt.NDArray[np.uint16]) -> Weights:
    """The upper halves of float32 numbers."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bf16(weights: Weights) -> npt.NDArray[np.uint16]:
    """Round to nearest, ties to even."""
    bits = np.ascontiguousarray(weights).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def main(model: str, out: str, *names: str) -> None:
    """Write the copies named, or all."""
    for name in names or NAMES:
        print(make(Path(model), Path(out), name), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
