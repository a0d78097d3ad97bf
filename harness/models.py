"""models/models.toml: aliases, where the weights lie, and what config.json says of them."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import InputError, ModelError
from harness.registry import ROOT, convert, lookup, read_toml
from harness.schema import Model, MoeFacts


def models() -> dict[str, Model]:
    """Every alias, as written in models/models.toml."""
    tables = read_toml(ROOT / "models" / "models.toml")
    return {
        alias: convert({"alias": alias, **table}, Model, f"models.toml [{alias}]")
        for alias, table in tables.items()
        if isinstance(table, dict)
    }


def resolve(alias: str) -> Model:
    """An alias, or a folder with weights. `path` is absolute when the weights are on this machine.

    Raises InputError for an unknown alias or folder, ModelError for a folder without config.json.
    """
    if alias.startswith((".", "~", os.sep)) and not Path(alias).is_dir():
        raise InputError(
            f"There is no folder {alias}; name the folder of a checkpoint, or an alias of models/models.toml."
        )
    if os.sep in alias and Path(alias).is_dir():
        given = Path(alias).absolute()
        model = Model(alias=_name(given), path=str(given))
    else:
        model = lookup(alias, models(), "model")
    folder = weights_folder(model)
    if folder is None:
        return msgspec.structs.replace(model, path="")
    return with_config(msgspec.structs.replace(model, path=str(folder)))


YARDSTICK = "models/tiny-moe"
"""Folder, in the repository, of the tokenizer that measures prompts for a model whose own is not known."""


def said(name: str) -> Model:
    """What a server's own name for its model stands for: an alias, an alias's id, else a mere name."""
    for model in models().values():
        if name and name in (model.alias, model.hf_id):
            return resolve(model.alias)
    return Model(alias=name or "unknown")


def name_of(model: Model) -> str:
    """What resolve() takes for this model: its alias, else its folder from the repository's root."""
    if model.alias in models() or not model.path:
        return model.alias
    folder = Path(model.path)
    return folder.relative_to(ROOT).as_posix() if folder.is_relative_to(ROOT) else model.path


def _name(folder: Path) -> str:
    """The folder's name; of a snapshot in the Hugging Face cache, the model's."""
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.rpartition("--")[2]
    return folder.name


def weights_folder(model: Model) -> Path | None:
    """Folder of the weights here: `path` (relative to the repository), else the Hugging Face cache.

    Of the cache, the pinned snapshot; where that is missing, the one its refs/main names.
    """
    if model.path:
        folder = Path(model.path) if Path(model.path).is_absolute() else ROOT / model.path
        return folder if folder.is_dir() else None
    if not model.hf_id:
        return None
    snapshots = hub_cache() / f"models--{model.hf_id.replace('/', '--')}" / "snapshots"
    if model.revision and (snapshots / model.revision).is_dir():
        return snapshots / model.revision
    main = snapshots.parent / "refs" / "main"
    if not main.is_file():
        return None
    folder = snapshots / main.read_text(encoding="utf-8").strip()
    return folder if folder.is_dir() else None


def hub_home() -> Path:
    """Where the Hugging Face Hub's client keeps its token and cache: $HF_HOME."""
    return Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))


def hub_cache() -> Path:
    """Where models downloaded from the Hub lie: $HF_HUB_CACHE."""
    return Path(os.environ.get("HF_HUB_CACHE", hub_home() / "hub"))


def with_config(model: Model) -> Model:
    """The model with max_model_len, MoE facts and the weights' revision read from its folder.

    Raises ModelError when config.json is missing or unreadable.
    """
    config = read_config(Path(model.path))
    length = int(config.get("max_position_embeddings") or 0)
    architectures = config.get("architectures") or [model.architecture]
    return msgspec.structs.replace(
        model,
        max_model_len=model.max_model_len or length,
        moe=moe_facts(config) or model.moe,
        architecture=str(architectures[0]),
        tied_embeddings=bool(config.get("tie_word_embeddings")),
        loaded_revision=loaded_revision(Path(model.path), config),
    )


def loaded_revision(folder: Path, config: dict[str, Any]) -> str:
    """Commit on the Hub that a folder's files are of; "" when nothing says so.

    A cache's snapshot is named after it; `hf download --local-dir` writes it into its own metadata; some
    tools keep it in config.json.
    """
    if folder.parent.name == "snapshots":
        return folder.name
    metadata = folder / ".cache" / "huggingface" / "download" / "config.json.metadata"
    if metadata.is_file():
        return metadata.read_text(encoding="utf-8").partition("\n")[0].strip()
    return str(config.get("_commit_hash") or "")


def provenance(model: Model) -> str:
    """Which weights these are, in words for `plan`."""
    where = model.hf_id or model.alias
    if not model.path:
        pin = f"revision {model.revision}" if model.revision else "no revision pinned"
        return f"{where}, {pin}; not on this machine"
    if not model.loaded_revision:
        return f"{where}; its files name no revision, environment.json of a run holds their sha256"
    if not model.revision:
        return f"{where}, revision {model.loaded_revision}, not pinned"
    same = model.loaded_revision == model.revision
    verdict = "as pinned" if same else f"NOT the pinned {model.revision}"
    return f"{where}, revision {model.loaded_revision}, {verdict}"


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a weights folder. Raises ModelError with what to do."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{folder} holds no config.json; point the model at a complete checkpoint."
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON ({error}); fetch the checkpoint again.") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} is not a JSON object; fetch the checkpoint again.")
    return config


def moe_facts(config: dict[str, Any]) -> MoeFacts | None:
    """Routing shape from a config.json of the DeepSeek, Qwen, Mixtral families; None for a dense model."""
    num_experts = 0
    for key in ("n_routed_experts", "num_experts", "num_local_experts"):
        num_experts = num_experts or int(config.get(key) or 0)
    if num_experts < 2:
        return None
    return MoeFacts(
        num_experts=num_experts,
        num_experts_per_tok=int(config.get("num_experts_per_tok") or 0),
        num_moe_layers=_num_moe_layers(config),
        hidden_size=int(config.get("hidden_size") or 0),
    )


def _num_moe_layers(config: dict[str, Any]) -> int:
    """Every n-th layer behind the dense ones; or as a list says, layer by layer."""
    step = config.get("decoder_sparse_step") or config.get("moe_layer_freq") or 1
    if isinstance(step, list):
        return sum(map(bool, step))
    layers = int(config.get("num_hidden_layers") or 0) - int(config.get("first_k_dense_replace") or 0)
    return layers // max(1, int(step))


def check_weights(model: Model) -> None:
    """Weights and tokenizer are complete, judged by the files' own headers (no tensor is read).

    Raises ModelError naming the file that is missing or shorter than its header says.
    """
    folder = Path(model.path)
    if not model.path:
        raise ModelError(f"The weights of {model.alias} are not on this machine; {fetch_weights(model)}.")
    read_config(folder)
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError(f"{folder} has a config.json but no tokenizer; add the checkpoint's tokenizer.json.")
    files = weight_files(folder)
    if not files:
        raise ModelError(f"{folder} holds no *.safetensors weights; fetch the checkpoint again.")
    for path in files:
        _check_safetensors(path)


def fetch_weights(model: Model) -> str:
    """How the weights of a model come to this machine, in words."""
    if not model.hf_id:
        return f"`{model.made_by}` makes them" if model.made_by else "put them where models/models.toml says"
    revision = f" --revision {model.revision}" if model.revision else ""
    fetch = f".venv/bin/hf download {model.hf_id}{revision}"
    return f"`{fetch}` fetches them, or set HF_HOME to a cache that has them"


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files its index names, else all.

    Raises ModelError if one is not there, or for an index that names none.
    """
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return tuple(sorted(folder.glob("*.safetensors")))
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{index} does not name the weight files ({type(error).__name__}); fetch it again."
        ) from error
    missing = [n for n in names if not (folder / n).exists()]
    if missing:
        raise ModelError(
            f"{folder} lacks {len(missing)} of {len(names)} weight files (first: {missing[0]}); "
            "finish the download."
        )
    return tuple(folder / n for n in names)


def _check_safetensors(path: Path) -> None:
    """Format: 8-byte little-endian header length, JSON header with data_offsets, then the data."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length)) if length < size else None
        if header is None:
            raise ValueError("header is cut off")
        ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is not a readable safetensors file ({error}); fetch it again.") from error
    if size != expected:
        raise ModelError(f"{path} is truncated: {size} bytes of {expected}; fetch it again.")
