"""Rules a MORI-EP configuration must obey, checked before GPUs are taken. Standard library only.

Sources: the MORI-EP user guide and, where it is out of date, ROCm/mori 624002c: dispatch_combine.cpp (the
handle), python/mori/ops/dispatch_combine.py (the operator, "op" below), convert.hpp and internode_v1.cpp.
"""

from __future__ import annotations

from ep_check import heap
from ep_check.mori_config import EpConfig

KERNELS = ("IntraNode", "IntraNodeLL", "InterNode", "InterNodeV1", "InterNodeV1LL", "AsyncLL")
MODE = "MORI_EP_LAUNCH_CONFIG_MODE"
QUANT_TYPES = ("none", "fp8_direct_cast", "fp8_blockwise", "fp4_blockwise")
INITS = ("process-group", "unique-id")
MOST_GPUS = 8
"""GPUs of one XGMI node; vLLM and SGLang set gpu_per_node to 8, or to the group's size below that."""
DEFAULT_QPS = 4
"""numQpPerPe of the shmem context (context.cpp); MORI_NUM_QP_PER_PE changes it."""
MOST_TOP_K_STANDARD = 9
"""MAX_EXPERTS_PER_TOKEN (dispatch_combine.hpp): the size of ConvertCombineInput's arrays."""


def violations(config: EpConfig) -> tuple[str, ...]:
    """Every rule the configuration breaks: what, why, what to do; empty when none. Raises ValueError."""
    broken = (*_group(config), _kernel(config), *_paths(config), *_quantized(config), heap.too_small(config))
    return tuple(message for message in broken if message)


def require(config: EpConfig) -> None:
    """Raise ValueError naming the first broken rule."""
    broken = violations(config)
    if broken:
        raise ValueError(broken[0])


def launch_parameters(kernel: str) -> dict[str, int]:
    """Block and warp numbers AUTO falls back to (op, lines 596 to 620), for use under MANUAL.

    The guide's section 6 gives InterNodeV1LL 96 / 64 / 8; the library has 256 / 128 / 8.
    """
    if kernel == "InterNodeV1":
        return {"block_num": 96, "rdma_block_num": 64, "warp_num_per_block": 8}
    if kernel == "InterNodeV1LL":
        return {"block_num": 256, "rdma_block_num": 128, "warp_num_per_block": 8}
    return {"block_num": 128, "rdma_block_num": 0, "warp_num_per_block": 16}


def launch_refusal(mode: str, config: EpConfig, given: dict[str, int]) -> str:
    """Why per-call block and warp numbers cannot act as given, "" when they can."""
    if mode not in ("MANUAL", "AUTO"):
        return f"{MODE}={mode!r} is refused by MORI: set MANUAL or AUTO"
    if mode == "AUTO" and given:
        return f"{MODE}=AUTO ignores {', '.join(sorted(given))}: set MANUAL to use them"
    if config.split and given:
        return "split=1 takes no launch parameters: the receiving half reuses those of the sending one"
    used = {**launch_parameters(config.kernel), **given}
    if config.kernel.startswith("InterNodeV1") and used["rdma_block_num"] >= used["block_num"]:
        return (
            f"rdma_block_num={used['rdma_block_num']} leaves no block of {used['block_num']} for transfers "
            "within the node, and ranks wait for ever (internode_v1.cpp): give fewer RDMA blocks than blocks"
        )
    return ""


def notes(config: EpConfig, environ_qps: str = "") -> tuple[str, ...]:
    """What MORI will do otherwise than asked, without an error."""
    qps = int(environ_qps) if environ_qps.isdigit() else DEFAULT_QPS
    said = []
    if config.num_qp_per_pe > qps:
        said.append(
            f"num_qp_per_pe={config.num_qp_per_pe} becomes {qps}: set MORI_NUM_QP_PER_PE for more queue pairs"
        )
    if config.kernel == "AsyncLL":
        said.append("AsyncLL overlaps little without SDMA: MORI_ENABLE_SDMA=1 (MORI warns of it)")
    return tuple(said)


def check_batch(num_tokens: int, config: EpConfig) -> str:
    """Why a batch does not fit a rank's limit, "" when it does: beyond it MORI writes past its buffers."""
    if num_tokens <= config.max_tokens_per_rank:
        return ""
    return (
        f"{num_tokens} tokens on one rank exceed max_num_inp_token_per_rank={config.max_tokens_per_rank}: "
        "raise it to the engine's max_num_batched_tokens, or lower that"
    )


def _group(config: EpConfig) -> tuple[str, ...]:
    gpus, world = config.gpus_per_node, config.world_size
    return (
        "one rank exchanges nothing: vLLM opens MORI from two expert-parallel ranks on, MORI's own benches "
        "from four; use ranks=8"
        if world == 1
        else "",
        f"{gpus} ranks on one node: MORI's have at most {MOST_GPUS} GPUs; say nodes={-(-world // MOST_GPUS)}"
        if gpus > MOST_GPUS
        else "",
        f"gpu_per_node={gpus} is no power of two: MORI asserts it; use 2, 4 or 8 GPUs of each node"
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
        f"init={config.init}: choose one of {', '.join(INITS)}" if config.init not in INITS else "",
    )


def _kernel(config: EpConfig) -> str:
    if config.kernel not in KERNELS:
        return f"unknown kernel type {config.kernel!r}: choose one of {', '.join(KERNELS)}"
    many_nodes = config.world_size > config.gpus_per_node
    if many_nodes and config.kernel.startswith("IntraNode"):
        return (
            f"{config.kernel} moves data over XGMI only and {config.world_size} ranks span several nodes: "
            "use InterNodeV1 (throughput) or InterNodeV1LL (latency)"
        )
    if not many_nodes and not config.kernel.startswith("IntraNode"):
        return (
            f"{config.kernel} takes the RDMA path though all ranks share one node: use IntraNode, or nodes="
        )
    return ""


def _paths(config: EpConfig) -> tuple[str, ...]:
    """Interfaces that only some kernels have."""
    standard = config.standard_moe
    return (
        f"split=1: dispatch_recv and combine_recv only support AsyncLL, not {config.kernel}"
        if config.split and config.kernel != "AsyncLL"
        else "",
        "split=1 goes without call_reset=1: the sending half takes no such argument"
        if config.split and config.call_reset
        else "",
        f"standard_moe=1 only supports IntraNode and InterNodeV1LL, not {config.kernel}: use priority=latency"
        if standard and config.kernel not in ("IntraNode", "InterNodeV1LL")
        else "",
        "standard_moe=1 has layouts and buffers of its own: leave out zero_copy= and split="
        if standard and (config.zero_copy or config.split)
        else "",
        "standard_moe=1 returns no scales, so FP8 rows cannot be read: use dispatch_dtype=bf16"
        if standard and config.dispatch_dtype == "fp8"
        else "",
        "standard_moe=1 strides its rows by max_token_type_size: bf16 wants max_token_type_size=2"
        if standard and config.max_token_type_size != 2
        else "",
        f"standard_moe=1 holds {MOST_TOP_K_STANDARD} experts of a token at most, not {config.top_k}"
        if standard and config.top_k > MOST_TOP_K_STANDARD
        else "",
    )


def _quantized(config: EpConfig) -> tuple[str, ...]:
    """Quantization inside combine: refused by the library, or passed over without a word."""
    kind, kernel = config.quant_type, config.kernel
    if kind not in QUANT_TYPES:
        return (f"quant_type={kind}: choose one of {', '.join(QUANT_TYPES)}",)
    if kind == "none":
        return ()
    allowed = ("IntraNode", "IntraNodeLL") + (() if kind == "fp4_blockwise" else ("AsyncLL",))
    return (
        f"quant_type={kind} only acts in combine of {'/'.join(allowed)}, not of {kernel}"
        + (": MORI would combine in bf16 without a word" if kind == "fp8_direct_cast" else "")
        if kernel not in allowed
        else "",
        f"quant_type={kind} needs combine to copy its input: leave out zero_copy=1"
        if config.zero_copy
        else "",
        f"quant_type={kind} is no part of the standard-MoE combine: leave out standard_moe=1"
        if config.standard_moe
        else "",
    )
