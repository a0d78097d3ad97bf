"""One MORI-EP group as it would be configured, from key=value options. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FLAGS = ("zero_copy", "split", "call_reset", "standard_moe")
NUMBERS = ("num_qp_per_pe", "max_total_recv_tokens", "max_token_type_size")
OVERRIDES = ("block_num", "rdma_block_num", "warp_per_block")
"""Per-call launch parameters of dispatch and combine."""
OPTIONS = ("kernel", "priority", "init", "quant_type", "viz", *FLAGS, *NUMBERS, *OVERRIDES)
PRIORITIES: dict[str, str] = {
    "throughput": "InterNodeV1",
    "latency": "InterNodeV1LL",
    "overlap": "AsyncLL",
    "baseline": "InterNode",
}
"""Kernel between nodes by what matters; overlap = transfers pipelined behind other work."""
OURS = "as estimated"
"""Heap of a program that sets MORI_SHMEM_HEAP_SIZE to the suggested size itself."""


@dataclass(frozen=True, kw_only=True)
class EpConfig:
    """Fields of MORI's EpDispatchCombineConfig, and what decides which of its paths run."""

    world_size: int
    gpus_per_node: int = 8
    hidden: int = 7168
    num_experts: int = 256
    top_k: int = 8
    max_tokens_per_rank: int = 4096
    kernel: str = "IntraNode"
    scale_dim: int = 0
    """float32 scales per token: hidden / 128 for blockwise FP8, 0 for bf16."""
    max_token_type_size: int = 2
    """Bytes per element the token buffers are sized for: bf16's 2, as vLLM, SGLang and MORI's own bench have
    it (the guide's examples take float32's 4 and twice the memory)."""
    max_total_recv_tokens: int = 0
    """Cap on what a rank may receive, and on the memory for it; 0 = none."""
    num_qp_per_pe: int = 1
    quant_type: str = "none"
    zero_copy: bool = False
    split: bool = False
    call_reset: bool = False
    standard_moe: bool = False
    init: str = "process-group"
    dispatch_dtype: str = "bf16"
    heap: str = ""
    """MORI_SHMEM_HEAP_SIZE, e.g. "12G"; "" = not set."""
    heap_mode: str = ""
    """MORI_SHMEM_MODE; "" = static_heap."""

    @property
    def num_nodes(self) -> int:
        """Nodes the ranks span."""
        return max(1, self.world_size // max(1, self.gpus_per_node))

    @property
    def max_recv_tokens(self) -> int:
        """Most tokens one rank can receive (MaxNumTokensToRecv, dispatch_combine.hpp at 624002c)."""
        per_rank = self.max_tokens_per_rank
        if self.max_total_recv_tokens:
            per_rank = min(per_rank, -(-self.max_total_recv_tokens // max(1, self.world_size)))
        return self.world_size * per_rank


def configured(options: Mapping[str, str], environ: Mapping[str, str], start: EpConfig) -> EpConfig:
    """`start` (its sizes) with the options and MORI's environment in place. Raises ValueError."""
    fields = dict(vars(start))
    for name in FLAGS:
        fields[name] = flag(options.get(name, "0"), name)
    for name in NUMBERS:
        if name in options:
            fields[name] = positive(options[name], name)
    for name in ("quant_type", "init"):
        fields[name] = options.get(name, fields[name])
    fields["kernel"] = options.get("kernel") or choose_kernel(
        start.num_nodes, options.get("priority") or "throughput"
    )
    fields["heap"] = environ.get("MORI_SHMEM_HEAP_SIZE", "") or OURS
    fields["heap_mode"] = environ.get("MORI_SHMEM_MODE", "").lower()
    return EpConfig(**fields)


def overrides(options: Mapping[str, str]) -> dict[str, int]:
    """The per-call launch parameters that are given. Raises ValueError."""
    return {name: positive(options[name], name) for name in OVERRIDES if options.get(name)}


def choose_kernel(num_nodes: int, priority: str) -> str:
    """Kernel type by topology and priority (guide, section 1). Raises ValueError for another priority."""
    if priority not in PRIORITIES:
        raise ValueError(f"unknown priority {priority!r}: choose one of {', '.join(PRIORITIES)}")
    return "IntraNode" if num_nodes == 1 else PRIORITIES[priority]


def flag(text: str, name: str) -> bool:
    """Whether an option is 1. Raises ValueError for anything but 0 and 1."""
    if text not in ("0", "1"):
        raise ValueError(f"{name}={text!r} is neither 0 nor 1: write {name}=1")
    return text == "1"


def positive(text: str, name: str) -> int:
    """A positive whole number. Raises ValueError."""
    if not str(text).isdigit() or int(text) < 1:
        raise ValueError(f"{name}={text!r} is no positive whole number: write for example {name}=8")
    return int(text)
