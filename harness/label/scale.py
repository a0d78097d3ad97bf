"""The same layout on another number of GPUs: `vllm-ep-x2` is `vllm-ep` with every 8 a 2. Pure."""

from __future__ import annotations

import re

import msgspec

from harness.schema import Parallel, Variant

_NAME = re.compile(r"(?P<variant>.+)-x(?P<num>\d+)")


def parse(name: str) -> tuple[str, int] | None:
    """(variant, number of GPUs) of a scaled name; None for any other."""
    match = _NAME.fullmatch(name)
    return (match["variant"], int(match["num"])) if match and int(match["num"]) > 0 else None


def scaled(variant: Variant, num_gpus: int) -> Variant:
    """The variant with every parallel size above 1 set to num_gpus, in its label and in what it expects."""
    sizes = {
        name: num_gpus if value > 1 else value
        for name, value in msgspec.structs.asdict(variant.parallel).items()
    }
    expect = {
        field: num_gpus if field.endswith("_parallel_size") and value not in (None, 1) else value
        for field, value in variant.expect.items()
    }
    if num_gpus == 1 and "all2all" in expect:
        expect["all2all"] = "none"
    return msgspec.structs.replace(
        variant,
        name=f"{variant.name}-x{num_gpus}",
        source=f"{variant.source}; on {num_gpus} GPU{'s' * (num_gpus > 1)}",
        parallel=Parallel(**sizes),
        expect=expect,
    )
