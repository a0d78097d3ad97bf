"""Names made of a variant's: `vllm-ep-x2` is `vllm-ep` with every 8 a 2, `vllm-ep-blind1` a twin. Pure."""

from __future__ import annotations

import re

import msgspec

from harness.schema import Parallel, Variant

_NAME = re.compile(r"(?P<variant>.+)-x(?P<num>\d+)")

_TWIN = re.compile(r"(?P<variant>.+)-blind[12]")


def twins(name: str) -> tuple[str, str]:
    """Two names of one variant, for measuring it against itself."""
    return f"{name}-blind1", f"{name}-blind2"


def untwinned(name: str) -> str:
    """The variant that a twin is; "" for a name that is none."""
    match = _TWIN.fullmatch(name)
    return match["variant"] if match else ""


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
