"""vllm-project/recipes: models/<owner>/<model>.yaml, strategies/*.yaml, taxonomy.yaml. Pure.

Layout and order of precedence as of commit 8959cf6 (src/lib/command-synthesis.js, resolveCommand): base_args,
the checkpoint's, the strategy's, what the recipe changes of it, the hardware's; said last wins. Recipes for
several nodes or for prefill and decode apart start several servers, which no single variant is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.errors import InputError
from harness.schema import Parallel
from harness.tune.vendor.published import Published, Wanted, last_wins, split, table, variables, words

USUAL_STRATEGY = "single_node_tp"
_TP = "--tensor-parallel-size"


def files(paths: Mapping[str, Any]) -> list[str]:
    """The recipes among a checkout's YAML files."""
    return sorted(path for path in paths if path.startswith("models/"))


def is_it(paths: Mapping[str, Any]) -> bool:
    """Whether a checkout has this layout."""
    return "taxonomy.yaml" in paths and any(path.startswith("strategies/") for path in paths)


def matches(recipe: Mapping[str, Any], model: str) -> bool:
    """Whether a recipe is for this checkpoint."""
    own = table(recipe.get("model"), "model").get("model_id")
    others = [v.get("model_id") for v in table(recipe.get("variants"), "variants").values() if v]
    return model.lower() in {str(name).lower() for name in [own, *others] if name}


def usual_hardware(recipe: Mapping[str, Any], profiles: Mapping[str, Any]) -> str:
    """Of a recipe: the first that it was verified on, else the first it names, else an H200."""
    said = table(table(recipe.get("meta"), "meta").get("hardware"), "meta.hardware")
    known = {name: how for name, how in said.items() if name in profiles}
    return next((name for name, how in known.items() if how == "verified"), next(iter(known), "h200"))


def read(path: str, paths: Mapping[str, Any], wanted: Wanted) -> Published:
    """The recipe of a file. Raises InputError for what it does not offer, and for another layout."""
    recipe = table(paths[path], path)
    model = table(recipe.get("model"), f"{path}: model")
    profiles = table(paths["taxonomy.yaml"].get("hardware_profiles"), "taxonomy.yaml: hardware_profiles")
    hardware = wanted.hardware or usual_hardware(recipe, profiles)
    if hardware not in profiles:
        raise InputError(f"hardware={hardware} is not of {path}'s repository; it has {', '.join(profiles)}.")
    checkpoints = table(recipe.get("variants"), f"{path}: variants")
    if wanted.precision not in checkpoints:
        raise InputError(f"{path} has no {wanted.precision!r}; it has {', '.join(checkpoints)}.")
    checkpoint = table(checkpoints[wanted.precision], f"{path}: variants.{wanted.precision}")
    place = _Place(path, recipe, checkpoint, hardware, profiles[hardware])
    name = "omni" if "omni" in recipe else wanted.name or strategy_of(path, recipe)
    args, env = place.layers(name, paths, wanted.num_gpus)
    rest, sizes, length = split(last_wins(args))
    return Published(
        file=path,
        model=str(checkpoint.get("model_id") or model.get("model_id") or ""),
        hardware=hardware,
        name=name if wanted.precision == "default" else f"{name}, {wanted.precision}",
        args=tuple(rest),
        env=env,
        parallel=Parallel(**sizes),
        max_model_len=length,
        needs=str(checkpoint.get("min_vllm_version") or model.get("min_vllm_version") or ""),
    )


def strategy_of(path: str, recipe: Mapping[str, Any]) -> str:
    """The strategy that a recipe recommends on one node. Raises InputError where it has none."""
    offered = words(recipe.get("compatible_strategies"), f"{path}: compatible_strategies")
    said = str(recipe.get("default_strategy") or "")
    single = [name for name in offered if name.startswith("single_node_")]
    if not single:
        raise InputError(f"{path} is for several servers only ({', '.join(offered) or 'no strategy'}).")
    return said if said in single else USUAL_STRATEGY if USUAL_STRATEGY in single else single[0]


class _Place:
    """One recipe on one kind of hardware."""

    def __init__(
        self, path: str, recipe: Mapping[str, Any], checkpoint: Mapping[str, Any], *hardware: Any
    ) -> None:
        self.path, self.recipe, self.checkpoint = path, recipe, checkpoint
        self.hardware: str = hardware[0]
        self.profile: dict[str, Any] = table(hardware[1], f"taxonomy.yaml: {hardware[0]}")

    def layers(self, name: str, paths: Mapping[str, Any], num_gpus: int) -> tuple[list[str], dict[str, str]]:
        """Arguments in the order of precedence, with repetitions, and variables."""
        found = list(self._layers(name, paths, num_gpus))
        args = [
            word
            for where, layer in found
            for key in ("args", "extra_args", "vllm_args")
            for word in words(layer.get(key), f"{self.path}: {where}.{key}")
        ]
        tables = [
            table(layer.get(key), f"{self.path}: {where}.{key}")
            for where, layer in found
            for key in ("env", "extra_env")
        ]
        return args, variables(*tables)

    def _layers(
        self, name: str, paths: Mapping[str, Any], num_gpus: int
    ) -> Iterator[tuple[str, Mapping[str, Any]]]:
        model = table(self.recipe.get("model"), "model")
        yield "model", {"args": model.get("base_args"), "env": model.get("base_env")}
        yield "variants", self.checkpoint
        own = table(self.checkpoint.get("hardware_overrides"), "variants.hardware_overrides")
        yield "variants.hardware_overrides", table(own.get(self.hardware), self.hardware)
        changed: Mapping[str, Any] = {}
        if name == "omni":
            yield "omni", {"args": ["--omni"]}
        else:
            strategy = self._strategy(name, paths)
            size = (str(strategy.get("parallel_flag") or _TP), str(self._size(name, num_gpus)))
            args = [*words(strategy.get("vllm_args"), name), *size]
            yield "strategy", {"args": args, "env": strategy.get("env")}
            overrides = table(self.recipe.get("strategy_overrides"), "strategy_overrides")
            changed = table(overrides.get(name), f"strategy_overrides.{name}")
            yield "strategy_overrides", changed
        replacing = self._generation(changed.get("hardware_overrides"))
        if replacing:
            yield "strategy_overrides.hardware_overrides", replacing
        else:
            yield "hardware_overrides", self._generation(self.recipe.get("hardware_overrides"))
            yield "variants.hardware_overrides", self._generation(own)
        exact = table(changed.get("hardware_overrides"), "hardware_overrides").get(self.hardware)
        yield "strategy_overrides.hardware_overrides", table(exact, self.hardware)

    def _strategy(self, name: str, paths: Mapping[str, Any]) -> dict[str, Any]:
        """Raises InputError for one that the recipe does not offer, or that takes several servers."""
        offered = words(self.recipe.get("compatible_strategies"), "compatible_strategies")
        gate = table(table(self.recipe.get("strategy_hardware"), "strategy_hardware").get(name), name)
        if name not in offered and self._keyed(gate) != "supported":
            raise InputError(f"{self.path} does not offer {name}; it offers {', '.join(offered)}.")
        if self._keyed(gate) == "unsupported":
            raise InputError(f"{self.path} does not offer {name} on {self.hardware}.")
        strategy = table(paths.get(f"strategies/{name}.yaml"), f"strategies/{name}.yaml")
        if strategy.get("deploy_type") != "single_node":
            raise InputError(f"{name} starts several servers, which no single variant is; name another.")
        return strategy

    def _generation(self, overrides: Any) -> dict[str, Any]:
        """Of a generation, else of the brand."""
        known = table(overrides, "hardware_overrides")
        nvidia = known.get("nvidia") if self.profile.get("brand") == "NVIDIA" else None
        return table(known.get(self._gen) or nvidia, self._gen)

    @property
    def _gen(self) -> str:
        said = self.profile.get("generation")
        return str(said[0] if isinstance(said, list) else said)

    def _keyed(self, values: Any) -> Any:
        """Of an exact accelerator, its generation, its brand, or "default"."""
        brand = str(self.profile.get("brand", "")).lower()
        if not isinstance(values, dict):
            return values
        return next((values[k] for k in (self.hardware, self._gen, brand, "default") if k in values), None)

    def _size(self, name: str, num_gpus: int) -> int:
        """GPUs that one server takes: as asked, as declared, or as the weights need."""
        whole = int(self.profile.get("gpu_count") or 1)
        if num_gpus or name != USUAL_STRATEGY:
            return num_gpus or whole
        overrides = table(self.recipe.get("strategy_overrides"), "strategy_overrides")
        for said in (self.checkpoint.get("tp"), table(overrides.get(name), name).get("tp")):
            if isinstance(size := self._keyed(said), int) and size > 0:
                return size if self._gen == "cpu" else min(size, whole)
        one_gb = float(self.profile.get("vram_gb") or 0) / whole
        needed_gb = float(self.checkpoint.get("vram_minimum_gb") or 0)
        return 1 if 0 < needed_gb <= one_gb else whole
