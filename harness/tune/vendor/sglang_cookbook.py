"""sgl-project/sgl-cookbook: data/models/generated/<version>/<vendor>.yaml. Pure.

Layout as of commit 7b5bd9c (data/schema/types.ts): vendor, families, models, hardware, named configurations,
each of one engine, or of prefill and decode apart, which is no single variant. Drawing models are not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.errors import InputError
from harness.schema import Parallel
from harness.tune.vendor.published import Published, Wanted, table, variables, words

_FOLDER = "data/models/generated/"


def files(paths: Mapping[str, Any]) -> list[str]:
    """The recipes among a checkout's YAML files: of a model in several versions, the newest last."""
    return sorted((path for path in paths if path.startswith(_FOLDER)), key=_version)


def _version(path: str) -> tuple[list[int], str]:
    said = path.removeprefix(_FOLDER).partition("/")[0]
    return [int(part) for part in said.lstrip("v").split(".") if part.isdigit()], path


def is_it(paths: Mapping[str, Any]) -> bool:
    """Whether a checkout has this layout."""
    return any(path.startswith(_FOLDER) for path in paths)


def _models(recipe: Mapping[str, Any], path: str) -> Iterator[dict[str, Any]]:
    for family in recipe.get("families") or ():
        for model in table(family, f"{path}: families").get("models") or ():
            yield table(model, f"{path}: models")


def matches(recipe: Mapping[str, Any], model: str) -> bool:
    """Whether a file has this checkpoint."""
    return any(str(one.get("model_path", "")).lower() == model.lower() for one in _models(recipe, ""))


def read(path: str, paths: Mapping[str, Any], wanted: Wanted) -> Published:
    """One configuration of a file. Raises InputError for what it does not offer, and for another layout."""
    models = {str(m.get("model_path", "")).lower(): m for m in _models(table(paths[path], path), path)}
    model = models.get(wanted.model.lower()) if wanted.model else next(iter(models.values()), None)
    if model is None:
        raise InputError(f"{path} has no model {wanted.model or 'at all'}; it has {', '.join(models)}.")
    known = {name.lower(): value for name, value in table(model.get("hardware"), path).items()}
    hardware = wanted.hardware.lower() or next(iter(known), "")
    if hardware not in known:
        raise InputError(f"{path} has no {hardware} for {model.get('name')}; it has {', '.join(known)}.")
    listed = table(known[hardware], f"{path}: {hardware}").get("configurations") or []
    named = {str(table(one, path).get("name")): table(one, path) for one in listed}
    name = wanted.name or ("default" if "default" in named else next(iter(named), ""))
    if name not in named:
        raise InputError(f"{path} has no configuration {name!r} on {hardware}; it has {', '.join(named)}.")
    engine = named[name].get("engine")
    if not engine:
        raise InputError(f"{path}: {name} serves prefill and decode apart, which is no single variant.")
    return _published(path, model, (hardware, name), table(engine, f"{path}: engine"), wanted.num_gpus)


def _published(
    path: str, model: Mapping[str, Any], which: tuple[str, str], engine: Mapping[str, Any], num_gpus: int
) -> Published:
    tensor = num_gpus or int(engine.get("tp") or 1)
    attention = int(engine.get("dp") or 1) if engine.get("enable_dp_attention") else 1
    data = 1 if engine.get("enable_dp_attention") else int(engine.get("dp") or 1)
    return Published(
        file=path,
        model=str(model.get("model_path") or ""),
        hardware=which[0],
        name=which[1],
        args=tuple(words(engine.get("extra_args"), f"{path}: extra_args")),
        env=variables(table(engine.get("env_vars"), f"{path}: env_vars")),
        parallel=Parallel(
            tensor=tensor,
            data=data,
            expert=min(int(engine.get("ep") or 1), tensor),
            attention_data=min(attention, tensor),
        ),
        needs=path.removeprefix(_FOLDER).partition("/")[0],
    )
