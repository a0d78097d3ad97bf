"""tuned/<name>.toml: what was found, as a variant that anybody can run, with where, when and proof."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import tomlkit

from harness import registry, store
from harness.errors import InputError
from harness.schema import Environment, Scalar, Variant
from harness.tune.campaign import Campaign
from harness.tune.telling import Outcome

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


def folder(kind: str) -> Path:
    """Where found variants of a kind, tuned or vendor, are written."""
    return next((f for f in registry.found_folders() if f.name == kind), registry.found_folders()[0])


def kept(variant: Variant, kind: str) -> Path:
    """Write a variant as a file that the registry reads. Raises InputError for a name that cannot be one."""
    if not _NAME.fullmatch(variant.name) or variant.name in registry.variants():
        raise InputError(
            f"name={variant.name} cannot name a found variant; take letters, digits, '.', '_', '-'."
        )
    bare = Variant(
        name=variant.name, engine=variant.engine, source="", accelerator=variant.accelerator, version=""
    )
    usual = msgspec.to_builtins(bare) | {"engine": "", "accelerator": "", "in_bench_all": None}
    fields: dict[str, Any] = {
        key: value for key, value in msgspec.to_builtins(variant).items() if value != usual[key]
    }
    document = tomlkit.document()
    document.add(
        tomlkit.comment(
            f"Found, not written: `just {'tune' if kind == 'tuned' else 'vendor'}` made this file."
        )
    )
    document.add(variant.name, tomlkit.item(fields))
    path = folder(kind) / f"{variant.name}.toml"
    store.write_text(path, tomlkit.dumps(document))
    return path


def tuned(campaign: Campaign, found: Outcome, run: Path, when: str) -> Variant:
    """The winner of a campaign as a variant; `run` is the proof."""
    seen = store.read(run / "environment.json", Environment)
    chosen = registry.variant(found.winner)
    proof: dict[str, Scalar] = {
        "of": found.base,
        "point": found.winner,
        "when": when,
        "where": f"{seen.cpu_model}, {seen.num_cpus} cores" + (f", {seen.gpus[0].name}" if seen.gpus else ""),
        "host": seen.hostname_hash,
        "harness": seen.harness_commit,
        "model": campaign.recipe.model or chosen.model,
        "scenario": campaign.scenario,
        "objective": campaign.objective,
        "run": run.name,
        "verdict": found.verdict,
    }
    if found.proof:
        proof |= {"ratio": found.proof.mean, "ratio_low": found.proof.low, "ratio_high": found.proof.high}
    name = campaign.name or f"{found.base}-tuned-{when[:10].replace('-', '')}"
    if campaign.name and len(campaign.bases) > 1:
        name = f"{found.base}-{campaign.name}"
    return msgspec.structs.replace(
        chosen,
        name=name,
        source=f"{found.winner}, found by `just tune` for {campaign.scenario} in {campaign.objective}",
        slot="tuned",
        found=proof,
        in_bench_all=False,
    )
