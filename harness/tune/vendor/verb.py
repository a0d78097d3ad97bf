"""`vendor`: list a checkout's recipes, or keep one of them as a variant, vendor/<name>.toml."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from harness import recipe as recipes
from harness import registry
from harness.errors import InputError
from harness.schema import Variant
from harness.tune import found_file
from harness.tune.vendor import checkout
from harness.tune.vendor.checkout import Checkout
from harness.tune.vendor.published import Published, Wanted

_KEYS = "model, hardware, name, precision, gpus and base"


def vendor(given: Sequence[str]) -> Iterator[str]:
    """Lines to say: what a checkout holds, or where the recipe of model= was kept. Raises InputError."""
    words = recipes.Words(given)
    if len(words.plain) != 1:
        raise InputError("vendor needs one checkout of published recipes: `just vendor FOLDER`.")
    gpus, base = words.take("gpus", "0"), words.take("base")
    if not gpus.isdigit():
        raise InputError(f"gpus={gpus} is no number of accelerators; leave it out for a whole node.")
    wanted = Wanted(
        model=words.take("model"),
        hardware=words.take("hardware"),
        name=words.take("name"),
        precision=words.take("precision", "default"),
        num_gpus=int(gpus),
    )
    words.nothing_left("vendor", _KEYS)
    opened = checkout.opened(Path(words.plain[0]))
    if not wanted.model:
        yield from _listed(opened)
        return
    if not base:
        raise InputError(f"vendor keeps a recipe on a variant of {opened.engine}: name it with base=VARIANT.")
    variant = as_variant(opened, opened.read(wanted), registry.variant(base))
    path = found_file.kept(variant, "vendor")
    yield f"{variant.name}: {' '.join(variant.args) or 'no flags of its own'}"
    yield f"Kept as a variant: {path}"


def _listed(opened: Checkout) -> Iterator[str]:
    read, unread = checkout.survey(opened)
    at = opened.commit[:12] or "no commit"
    yield f"{opened.engine} recipes at {at}: {len(read)} of {len(read) + len(unread)} files are read"
    for path, one in read.items():
        yield f"  {one.model}: {one.hardware}, {one.name} ({path})"
    for path, why in unread.items():
        yield f"not read: {path}: {why}"


def as_variant(opened: Checkout, published: Published, base: Variant) -> Variant:
    """The recipe on a variant's version, environment and model.

    What the base claims of its sizes is claimed of the recipe's; what else it claims of itself is its own
    flags' doing and is left out. Raises InputError for a base of another engine.
    """
    if base.engine != opened.engine:
        raise InputError(f"{base.name} is of {base.engine}; these recipes need a base of {opened.engine}.")
    sizes = published.parallel
    shown = {
        "tensor_parallel_size": sizes.tensor,
        "data_parallel_size": sizes.data,
        "expert_parallel_size": sizes.expert,
        "pipeline_parallel_size": sizes.pipeline,
    }
    expect = {key: value for key, value in shown.items() if key in base.expect}
    at = opened.commit or "not under git"
    slug = re.sub(r"[^a-z0-9.]+", "-", published.model.lower().rpartition("/")[2]).strip("-")
    name = f"{opened.engine}-vendor-{slug}-{published.hardware}"
    return replace(
        base,
        name=name,
        source=f"{published.file} at {at}: {published.name} on {published.hardware}",
        args=(*_needed_here(base), *published.args),
        env={**base.env, **published.env},
        parallel=sizes,
        max_model_len=base.max_model_len or published.max_model_len,
        expect=expect,
        reasons={},
        slot="vendor",
        found={
            "file": published.file,
            "commit": at,
            "model": published.model,
            "hardware": published.hardware,
            "name": published.name,
            "asks_for": published.needs,
            "base": base.name,
        },
        in_bench_all=False,
    )


def _needed_here(base: Variant) -> tuple[str, ...]:
    """Arguments of a base that its machine needs, not its speed: those no space has; on CPU only."""
    if base.accelerator != "cpu":
        return ()
    bare = registry.variant(f"{base.name}~default") if registry.space(base.engine) else base
    return bare.args
