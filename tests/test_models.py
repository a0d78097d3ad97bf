"""Aliases, config facts, and checkpoints that are not what they should be."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness import model_facts, models, registry
from harness.errors import InputError, ModelError
from harness.host import environment
from harness.schema import Model

CONFIGS = [
    (
        {
            "n_routed_experts": 256,
            "num_experts_per_tok": 8,
            "num_hidden_layers": 61,
            "first_k_dense_replace": 3,
        },
        58,
    ),
    ({"num_experts": 60, "num_experts_per_tok": 4, "num_hidden_layers": 24, "decoder_sparse_step": 1}, 24),
    ({"num_local_experts": 8, "num_experts_per_tok": 2, "num_hidden_layers": 32}, 32),
    ({"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_layer_freq": [0, 1, 1, 1]}, 3),
]


@pytest.mark.parametrize(("config", "layers"), CONFIGS)
def test_moe_facts(config: dict[str, Any], layers: int) -> None:
    facts = model_facts.moe_facts(config)
    assert facts is not None
    assert facts.num_moe_layers == layers
    assert facts.num_experts_per_tok == config["num_experts_per_tok"]


def test_a_dense_config_has_none() -> None:
    assert model_facts.moe_facts({"num_hidden_layers": 32}) is None


def checkpoint(folder: Path) -> Path:
    """The smallest complete checkpoint: config, tokenizer, one tensor of four bytes."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 64, "num_hidden_layers": 1}))
    (folder / "tokenizer.json").write_text("{}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0\0\0")
    return folder


def test_a_complete_checkpoint_passes(tmp_path: Path) -> None:
    model = models.resolve(str(checkpoint(tmp_path / "m")))
    models.check_weights(model)
    assert model.max_model_len == 64


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("model.safetensors", lambda p: p.write_bytes(p.read_bytes()[:-1]), "is truncated"),
        ("model.safetensors", lambda p: p.write_bytes(b"\xff" * 40), "not a readable safetensors"),
        ("model.safetensors", lambda p: p.unlink(), r"holds no \*.safetensors"),
        ("model.safetensors", lambda p: (p.unlink(), p.symlink_to("blob-that-is-gone")), "fetch it again"),
        (
            "model.safetensors",
            lambda p: p.write_bytes(struct.pack("<Q", 2) + b"[]"),
            "not a readable safetens",
        ),
        ("model.safetensors.index.json", lambda p: p.write_text("{"), "does not name"),
        ("model.safetensors.index.json", lambda p: p.write_text("{}"), "does not name"),
        ("tokenizer.json", lambda p: p.unlink(), "no tokenizer"),
        ("config.json", lambda p: p.write_text("{"), "cannot be read as JSON"),
        ("config.json", lambda p: p.unlink(), "holds no config.json"),
    ],
)
def test_a_broken_checkpoint_is_named(tmp_path: Path, name: str, change: object, told: str) -> None:
    folder = checkpoint(tmp_path / "m")
    change(folder / name)  # type: ignore[operator]
    with pytest.raises(ModelError, match=told):
        models.check_weights(models.resolve(str(folder)))


OLD, PINNED = "a" * 40, "b" * 40


def cached(hub: Path, revision: str) -> Path:
    """A Hugging Face cache that holds org/m at this revision, as its main."""
    repository = hub / "models--org--m"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(revision)
    (repository / "snapshots").mkdir(exist_ok=True)
    return checkpoint(repository / "snapshots" / revision)


def test_the_pinned_snapshot_is_taken_and_another_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    model = Model(alias="m", hf_id="org/m", revision=PINNED)
    assert models.weights_folder(model) is None
    assert models.provenance(model) == f"org/m, revision {PINNED}; not on this machine"
    other = msgspec.structs.replace(model, path=str(cached(tmp_path, OLD)))
    assert models.weights_folder(model) == Path(other.path)
    assert f"revision {OLD}, NOT the pinned {PINNED}" in models.provenance(models.with_config(other))
    right = cached(tmp_path, PINNED)
    (tmp_path / "models--org--m" / "refs" / "main").write_text(OLD)
    assert models.weights_folder(model) == right
    loaded = models.with_config(msgspec.structs.replace(model, path=str(right)))
    assert loaded.loaded_revision == PINNED and models.provenance(loaded).endswith("as pinned")
    assert models.resolve(str(right)).alias == "m"


def test_a_folder_without_a_cache_says_where_it_came_from(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m")
    assert "name no revision" in models.provenance(models.resolve(str(folder)))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_commit_hash": OLD}))
    assert models.resolve(str(folder)).loaded_revision == OLD
    metadata = folder / ".cache" / "huggingface" / "download" / "config.json.metadata"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"{PINNED}\netag\n1.0\n")
    assert models.resolve(str(folder)).loaded_revision == PINNED


def test_a_pin_is_a_whole_commit_and_what_variants_run_by_default_is_pinned() -> None:
    pins = {model.alias: model.revision for model in models.models().values() if model.hf_id}
    assert all(re.fullmatch("[0-9a-f]{40}", pin) for pin in pins.values() if pin)
    defaults = {variant.model for variant in registry.variants().values()} & set(pins)
    assert defaults and all(pins[alias] for alias in defaults)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m")
    index = {"weight_map": {"w": "model.safetensors", "v": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="lacks 1 of 2 weight files"):
        models.check_weights(models.resolve(str(folder)))


def test_an_unknown_alias_lists_what_exists() -> None:
    with pytest.raises(InputError, match="Did you mean tiny-moe"):
        models.resolve("tiny-mo")


def test_hashes_are_cached_by_path_size_and_mtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = models.resolve(str(checkpoint(tmp_path / "m")))
    first = environment.hash_weights(model)
    cache = json.loads((tmp_path / "cache" / "serving-harness" / "weights.json").read_text())
    assert set(cache.values()) == set(first.values())
    planted = {key: "0" * 64 for key in cache}
    (tmp_path / "cache" / "serving-harness" / "weights.json").write_text(json.dumps(planted))
    assert set(environment.hash_weights(model).values()) == {"0" * 64}, "a cached file is read again"
    (tmp_path / "m" / "config.json").write_text(json.dumps({"max_position_embeddings": 65, "a": 1}))
    assert environment.hash_weights(model)["config.json"] != "0" * 64, "a changed file is not"


def test_a_cache_that_cannot_be_written_costs_the_cache_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert set(environment.hash_weights(models.resolve(str(checkpoint(tmp_path / "m"))))) == {
        "config.json",
        "tokenizer.json",
        "model.safetensors",
    }
