"""Names made of a variant's. Pure.

`vllm-ep-x2` is `vllm-ep` with every 8 a 2, `vllm-ep-x16-n2` that of 16 on two nodes, `vllm-ep-blind1` a twin.
"""

from __future__ import annotations

import re

import msgspec

from harness.errors import InputError
from harness.schema import Parallel, Variant

_NAME = re.compile(r"(?P<variant>.+)-x(?P<num>\d+)")

_NODES = re.compile(r"(?P<variant>.+)-n(?P<num>[2-9]|[1-9]\d+)")
_TWIN = re.compile(r"(?P<variant>.+)-blind[12]")


def twins(name: str) -> tuple[str, str]:
    """Two names of one variant, for measuring it against itself."""
    return f"{name}-blind1", f"{name}-blind2"


def untwinned(name: str) -> str:
    """The variant that a twin is; "" for a name that is none."""
    match = _TWIN.fullmatch(name)
    return match["variant"] if match else ""


def on_nodes(name: str, nodes: int) -> str:
    """The name of a variant on several nodes, its switches behind; on one it keeps its own."""
    return re.sub(r"^[^+~]+", rf"\g<0>-n{nodes}", name) if nodes > 1 else name


def nodes_of(name: str) -> tuple[str, int] | None:
    """(variant, number of nodes) of a name that on_nodes() made; None for any other."""
    match = _NODES.fullmatch(name)
    return (match["variant"], int(match["num"])) if match else None


def spread(variant: Variant, nodes: int) -> Variant:
    """The variant on several nodes, which share its parallel sizes evenly. Raises InputError."""
    if variant.parallel.num_gpus % nodes:
        raise InputError(
            f"{variant.name} has {variant.parallel.num_gpus} ranks in its layout, which {nodes} nodes cannot "
            f"share evenly; give {variant.name}-x{8 * nodes} nodes={nodes} for {nodes} nodes of eight."
        )
    source = f"{variant.source}; on {nodes} nodes"
    name = on_nodes(variant.name, nodes)
    return msgspec.structs.replace(variant, name=name, source=source, nodes=nodes)


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
