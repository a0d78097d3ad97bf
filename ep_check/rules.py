"""Rules a MORI-EP configuration must obey, checked before GPUs are taken. Standard library only.

Sources: the MORI-EP user guide, and ROCm/mori (dispatch_combine.cpp/.py) where the guide is out of date.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import InputError

KERNELS = ("IntraNode", "IntraNodeLL", "InterNode", "InterNodeV1", "InterNodeV1LL", "AsyncLL")
PRIORITIES: dict[str, str] = {
    "throughput": "InterNodeV1",
    "latency": "InterNodeV1LL",
    "overlap": "AsyncLL",
    "baseline": "InterNode",
}
"""Kernel between nodes by what matters; overlap = transfers pipelined behind other work."""
MODE = "MORI_EP_LAUNCH_CONFIG_MODE"
OVERRIDES = ("block_num", "rdma_block_num", "warp_per_block")
"""Per-call launch parameters of dispatch and combine."""
DEFAULT_HEAP_GIB = 2
"""MORI's own smallest static default when MORI_SHMEM_HEAP_SIZE is not set."""
OURS = "as estimated"
"""Heap of a program that sets MORI_SHMEM_HEAP_SIZE to the suggested size itself."""
_TOKEN_BUFFERS = 4
"""Symmetric buffers of recv-limit x hidden: dispatch in/out, combine in/out (or staging)."""


@dataclass(frozen=True, kw_only=True)
class EpConfig:
    """One expert-parallel group as MORI would be configured for it."""

    world_size: int
    gpus_per_node: int = 8
    hidden: int = 7168
    num_experts: int = 256
    top_k: int = 8
    max_tokens_per_rank: int = 4096
    kernel: str = "IntraNode"
    scale_dim: int = 0
    """float32 scales per token: hidden / 128 for blockwise FP8, 0 for bf16."""
    max_token_type_size: int = 4
    """Bytes per element the token buffers are sized for (the guide's examples use float32's 4)."""
    heap: str = ""
    """MORI_SHMEM_HEAP_SIZE, e.g. "12G"; "" = not set."""

    @property
    def max_recv_tokens(self) -> int:
        """Most tokens one rank can receive: world_size x max_tokens_per_rank (dispatch_combine.hpp)."""
        return self.world_size * self.max_tokens_per_rank

    @property
    def suggested_heap_gib(self) -> int:
        """Estimated need plus a quarter, whole GiB, at least MORI's default."""
        return max(DEFAULT_HEAP_GIB, -(-heap_bytes(self) * 5 // (4 << 30)))


def heap_bytes(config: EpConfig) -> int:
    """Estimated symmetric memory of one operator, bytes per rank.

    recv x (4 x hidden x max_token_type_size + 2 x top_k x (4 weight + 4 index) + 2 x scale_dim x 4
    + experts_per_rank x 4 source map), recv = max_recv_tokens. Barriers and counters are left out (KiB).
    """
    experts_per_rank = config.num_experts // config.world_size
    per_token = (
        _TOKEN_BUFFERS * config.hidden * config.max_token_type_size
        + 2 * config.top_k * 8
        + 2 * config.scale_dim * 4
        + experts_per_rank * 4
    )
    return config.max_recv_tokens * per_token


def violations(config: EpConfig) -> tuple[str, ...]:
    """Every rule the configuration breaks: what, why, what to do; empty when none."""
    return tuple(message for message in _broken(config) if message)


def require(config: EpConfig) -> None:
    """Raise InputError naming the first broken rule."""
    broken = violations(config)
    if broken:
        raise InputError(broken[0], details="\n".join(broken[1:]))


def choose_kernel(num_nodes: int, priority: str) -> str:
    """Kernel type by topology and priority (guide, section 1). Raises InputError for another priority."""
    if priority not in PRIORITIES:
        raise InputError(f"unknown priority {priority!r}: choose one of {', '.join(PRIORITIES)}")
    return "IntraNode" if num_nodes == 1 else PRIORITIES[priority]


def launch_parameters(kernel: str) -> dict[str, int]:
    """Block and warp numbers AUTO would pick (guide, section 6), for use under MANUAL."""
    if kernel in ("InterNodeV1", "InterNodeV1LL"):
        return {"block_num": 96, "rdma_block_num": 64, "warp_num_per_block": 8}
    return {"block_num": 128, "rdma_block_num": 0, "warp_num_per_block": 16}


def launch_warning(mode: str, overrides: dict[str, int]) -> str:
    """What the launch mode does to per-call block and warp numbers; "" when they act as given.

    Raises InputError for a mode MORI would refuse.
    """
    if mode not in ("MANUAL", "AUTO"):
        raise InputError(f"MORI_EP_LAUNCH_CONFIG_MODE={mode!r} is refused by MORI: set MANUAL or AUTO")
    if mode == "AUTO" and overrides:
        return (
            f"MORI_EP_LAUNCH_CONFIG_MODE=AUTO ignores {', '.join(sorted(overrides))}: set MANUAL to use them"
        )
    return ""


def check_batch(num_tokens: int, config: EpConfig) -> str:
    """Why a batch does not fit a rank's limit, "" when it does: beyond it MORI writes past its buffers."""
    if num_tokens <= config.max_tokens_per_rank:
        return ""
    return (
        f"{num_tokens} tokens on one rank exceed max_num_inp_token_per_rank={config.max_tokens_per_rank}: "
        "raise it to the engine's max_num_batched_tokens, or lower that"
    )


def parse_size(text: str) -> int:
    """Bytes of "6G", "512M", "2GB" or a plain number; raises InputError."""
    digits = text.strip().upper().removesuffix("IB").removesuffix("B")
    unit = {"K": 10, "M": 20, "G": 30, "T": 40}.get(digits[-1:], 0)
    try:
        return int(float(digits[:-1] if unit else digits) * (1 << unit))
    except ValueError:
        raise InputError(f"MORI_SHMEM_HEAP_SIZE={text!r} is no size: write for example 6G") from None


def _broken(config: EpConfig) -> tuple[str, ...]:
    gpus, world = config.gpus_per_node, config.world_size
    return (
        f"gpu_per_node={gpus} is no power of two: MORI asserts it; use 1, 2, 4 or 8 GPUs of each node"
        if gpus < 1 or gpus & (gpus - 1)
        else "",
        f"world size {world} is no multiple of gpu_per_node={gpus}: MORI asserts it; use whole nodes"
        if gpus and world % gpus
        else "",
        f"{config.num_experts} experts do not split over {world} ranks: choose an EP size that divides them"
        if world < 1 or config.num_experts % world
        else "",
        f"top-{config.top_k} exceeds {config.num_experts} experts: check the model's config"
        if config.top_k > config.num_experts
        else "",
        _kernel_rule(config),
        _heap_rule(config),
    )


def _kernel_rule(config: EpConfig) -> str:
    if config.kernel not in KERNELS:
        return f"unknown kernel type {config.kernel!r}: choose one of {', '.join(KERNELS)}"
    many_nodes = config.world_size > config.gpus_per_node
    if many_nodes and config.kernel.startswith("IntraNode"):
        return (
            f"{config.kernel} moves data over XGMI only and {config.world_size} ranks span several nodes: "
            "use InterNodeV1 (throughput) or InterNodeV1LL (latency)"
        )
    if not many_nodes and not config.kernel.startswith("IntraNode"):
        return f"{config.kernel} takes the RDMA path though all ranks share one node: use IntraNode"
    return ""


def _heap_rule(config: EpConfig) -> str:
    if config.world_size < 1:
        return ""
    if config.heap == OURS:
        return ""
    have = parse_size(config.heap) if config.heap else DEFAULT_HEAP_GIB << 30
    need = heap_bytes(config)
    if have >= need:
        return ""
    said = (
        f"MORI_SHMEM_HEAP_SIZE={config.heap}" if config.heap else f"the default {DEFAULT_HEAP_GIB} GiB heap"
    )
    return (
        f"{said} is smaller than the estimated {need / (1 << 30):.1f} GiB for {config.max_recv_tokens} "
        f"received tokens: set MORI_SHMEM_HEAP_SIZE={config.suggested_heap_gib}G or lower the tokens per rank"
    )
