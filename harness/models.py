"""Models by alias (models/models.toml), folder or Hugging Face id: where they lie, what their files say."""

from __future__ import annotations

import json
import os
import re
import struct
from pathlib import Path
from typing import Any

import msgspec

from harness import model_facts
from harness.errors import InputError, ModelError
from harness.host import hub
from harness.registry import ROOT, convert, lookup, read_toml
from harness.schema import Model

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
"""org/name, or org/name@revision."""


def models() -> dict[str, Model]:
    """Every alias, as written in models/models.toml."""
    tables = read_toml(ROOT / "models" / "models.toml")
    return {
        alias: convert({"alias": alias, **table}, Model, f"models.toml [{alias}]")
        for alias, table in tables.items()
        if isinstance(table, dict)
    }


def resolve(name: str) -> Model:
    """An alias, a folder with weights, or a Hugging Face id (org/name, org/name@revision).

    `path` is absolute when the weights are on this machine; where only their config and tokenizer are (in the
    Hub's cache, or fetched from the Hub, a few MB), `tokenizer` says where. Raises InputError for an unknown
    alias or folder and for an id that is neither here nor can be asked for, ModelError for a folder without
    config.json.
    """
    if name.startswith((".", "~", os.sep)) and not Path(name).is_dir():
        raise InputError(
            f"There is no folder {name}; name the folder of a checkpoint, a Hugging Face id, or an alias of "
            "models/models.toml."
        )
    if os.sep in name and Path(name).is_dir():
        given = Path(name).absolute()
        return with_config(Model(alias=_name(given), path=str(given)), given)
    model = _by_id(name) if HUB_ID.fullmatch(name) else lookup(name, models(), "model")
    folder = weights_folder(model)
    if folder is None:
        return msgspec.structs.replace(model, path="")
    if not has_weights(folder):
        found = with_config(msgspec.structs.replace(model, path=""), folder)
        return msgspec.structs.replace(found, tokenizer=str(folder))
    return with_config(msgspec.structs.replace(model, path=str(folder)), folder)


def _by_id(name: str) -> Model:
    """The alias of this id, unless another revision is asked for; else what the id's own files say."""
    hf_id, _, revision = name.partition("@")
    for model in models().values():
        if model.hf_id == hf_id and revision in ("", model.revision):
            return model
    model = Model(alias=hf_id.rpartition("/")[2], hf_id=hf_id, revision=revision)
    if weights_folder(model) is None:
        hub.fetch_facts(hf_id, revision)
    return model


def has_weights(folder: Path) -> bool:
    """Whether some weight file lies there; complete or not, check_weights() says."""
    return any(next(folder.glob(pattern), None) for pattern in ("*.safetensors", "*.bin", "*.gguf"))


YARDSTICK = "models/tiny-moe"
"""Folder, in the repository, of the tokenizer that measures prompts for a model whose own is not known."""


def called(name: str) -> Model:
    """What a server's own name for its model stands for: an alias, an alias's id, else a mere name."""
    for model in models().values():
        if name and name in (model.alias, model.hf_id):
            return resolve(model.alias)
    if HUB_ID.fullmatch(name) and weights_folder(Model(alias=name, hf_id=name)):
        return resolve(name)
    return Model(alias=name or "unknown")


_MISNAMED = "unknown, called "


def misnamed(name: str) -> Model:
    """A server's model that bears the name of one of ours and does not count tokens as that one does."""
    return Model(alias=_MISNAMED + name)


def assumed(model: Model, given: str) -> str:
    """What is taken for granted of a server's model that nobody named, in words; "" where nothing is.

    `given`: the name that the user gave.
    """
    if given:
        return ""
    if model.alias.startswith(_MISNAMED):
        name = model.alias.removeprefix(_MISNAMED)
        return (
            f"the server calls its model {name}, but does not count tokens as {name} does, so its weights "
            f"are taken as unknown; model={name} would hold it to that model"
        )
    if model.path or model.tokenizer:
        return (
            f"the server calls its model as {model.alias} is called here and counts tokens as that one does: "
            f"that it serves those weights is assumed; model={model.alias} says so"
        )
    return ""


def name_of(model: Model) -> str:
    """What resolve() takes for this model: its alias, its id, else its folder from the repository's root."""
    known = models().get(model.alias)
    if known and known.hf_id == model.hf_id and (known.hf_id or _same_folder(known, model)):
        return model.alias
    if model.hf_id:
        return f"{model.hf_id}@{model.revision}" if model.revision else model.hf_id
    if not model.path:
        return model.alias
    folder = Path(model.path)
    return folder.relative_to(ROOT).as_posix() if folder.is_relative_to(ROOT) else model.path


def _same_folder(known: Model, model: Model) -> bool:
    return not model.path or weights_folder(known) == Path(model.path)


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
    snapshots = hub.cache() / f"models--{model.hf_id.replace('/', '--')}" / "snapshots"
    if model.revision and (snapshots / model.revision).is_dir():
        return snapshots / model.revision
    main = snapshots.parent / "refs" / "main"
    if not main.is_file():
        return None
    folder = snapshots / main.read_text(encoding="utf-8").strip()
    return folder if folder.is_dir() else None


def with_config(model: Model, folder: Path | None = None) -> Model:
    """The model with what its folder's config.json and index say; what the alias states of sizes stays.

    Raises ModelError when config.json is missing or unreadable.
    """
    folder = folder or Path(model.path)
    config, index = read_config(folder), _index(folder)
    size_gb = model_facts.weights_gb(index) or _size_gb(folder) or model.weights_gb
    architectures = config.get("architectures") or [model.architecture]
    return msgspec.structs.replace(
        model,
        max_model_len=model.max_model_len or model_facts.max_model_len(config),
        moe=model_facts.moe_facts(config) or model.moe,
        architecture=str(architectures[0]),
        num_mtp_layers=model_facts.num_mtp_layers(config) or model.num_mtp_layers,
        tied_embeddings=bool(model_facts.text_of(config).get("tie_word_embeddings")),
        quantisation=model_facts.quantisation(config),
        weights_gb=model.weights_gb or size_gb,
        num_params_b=model.num_params_b or model_facts.num_params_b(config, index, size_gb),
        experts_share=model_facts.experts_share(config, size_gb),
        loaded_revision=loaded_revision(folder, config),
    )


def _index(folder: Path) -> dict[str, Any]:
    """The safetensors index; {} where there is none, or none that can be read."""
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return index if isinstance(index, dict) else {}


def _size_gb(folder: Path) -> float:
    """Weight files that lie here, 10^9 bytes."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors") if path.exists()) / 1e9


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


def check_weights(model: Model) -> None:
    """Weights and tokenizer are complete, judged by the files' own headers (no tensor is read).

    Raises ModelError naming the file that is missing or shorter than its header says.
    """
    folder = Path(model.path)
    if not model.path:
        raise ModelError(
            f"The weights of {model.alias} are not on this machine; {model_facts.fetch_weights(model)}."
        )
    read_config(folder)
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError(f"{folder} has a config.json but no tokenizer; add the checkpoint's tokenizer.json.")
    files = weight_files(folder)
    if not files:
        raise ModelError(f"{folder} holds no *.safetensors weights; fetch the checkpoint again.")
    for path in files:
        _check_safetensors(path)


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
