"""Edited checkpoints differ from the original in what they name, and in nothing else."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

from tests.sabotage import checkpoints

TINY = Path(__file__).parent.parent / "models" / "tiny-moe"


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor as float32, by name."""
    data = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            bits = np.frombuffer(data[begin:end], "<u2").reshape(entry["shape"])
            found[name] = checkpoints.from_bf16(bits)
    return found


@pytest.mark.parametrize(
    ("fault", "changed"),
    [
        ("head-zero", {"model.layers.2.self_attn.o_proj.weight"}),
        ("expert-1.5", {"model.layers.2.mlp.experts.3.down_proj.weight"}),
        ("router-swap", {"model.layers.2.mlp.gate.weight"}),
    ],
)
def test_a_fault_of_the_weights_changes_only_its_tensor(
    fault: str, changed: set[str], tmp_path: Path
) -> None:
    before, after = tensors(TINY), tensors(checkpoints.make(TINY, tmp_path, fault))
    assert {name for name in before if not np.array_equal(before[name], after[name])} == changed


def test_a_zeroed_head_reaches_nothing_and_its_neighbour_does(tmp_path: Path) -> None:
    name = "model.layers.2.self_attn.o_proj.weight"
    after = tensors(checkpoints.make(TINY, tmp_path, "head-zero"))[name]
    assert not after[:, :32].any()
    assert np.array_equal(after[:, 32:], tensors(TINY)[name][:, 32:])


def test_a_router_with_two_experts_swapped_sends_each_the_others_tokens(tmp_path: Path) -> None:
    name = "model.layers.2.mlp.gate.weight"
    before, after = tensors(TINY)[name], tensors(checkpoints.make(TINY, tmp_path, "router-swap"))[name]
    assert np.array_equal(after[[3, 4]], before[[4, 3]])
    assert np.array_equal(np.delete(after, [3, 4], 0), np.delete(before, [3, 4], 0))


def test_int8_weights_lie_within_half_a_step_and_spare_embeddings_norms_and_routers(tmp_path: Path) -> None:
    before, after = tensors(TINY), tensors(checkpoints.make(TINY, tmp_path, "int8"))
    for name, weights in before.items():
        if not name.endswith("_proj.weight"):
            assert np.array_equal(after[name], weights), name
            continue
        step = np.abs(weights).max(1, keepdims=True) / 127
        assert (np.abs(after[name] - weights) <= step * 0.5 + np.abs(weights) / 256).all(), name
        assert not np.array_equal(after[name], weights), name


def test_bf16_rounds_to_the_nearest_and_ties_to_even() -> None:
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20], np.float32)
    assert checkpoints.from_bf16(checkpoints.to_bf16(ties)).tolist() == [1.0, 1 + 2**-6, 1 + 2**-7]


@pytest.mark.parametrize(
    ("fault", "changed"),
    [
        ("k-1", {"num_experts_per_tok": 3}),
        ("eps-100", {"rms_norm_eps": 1e-6 * 100}),
        (
            "rope-5",
            {"rope_theta": 5e4, "rope_parameters": {"rope_theta": 5e4, "rope_type": "default"}},
        ),
    ],
)
def test_a_fault_of_the_configuration_shares_the_weights(
    fault: str, changed: dict[str, object], tmp_path: Path
) -> None:
    folder = checkpoints.make(TINY, tmp_path, fault)
    before, after = (json.loads((f / "config.json").read_text()) for f in (TINY, folder))
    assert {k: v for k, v in after.items() if before.get(k) != v} == changed
    assert (folder / "model.safetensors").samefile(TINY / "model.safetensors")


def test_an_unknown_fault_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        checkpoints.make(TINY, tmp_path, "nothing")
