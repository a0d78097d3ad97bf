"""Configuration rules of MORI-EP: each broken rule is one sentence that says what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ep_check import heap, mori_config, rules
from ep_check.mori_config import EpConfig

GOOD = EpConfig(world_size=8, max_tokens_per_rank=4096, heap="12G")
TWO_NODES = replace(GOOD, world_size=16, kernel="InterNodeV1")
LL = {"kernel": "InterNodeV1LL", "standard_moe": True}
GIB = 1 << 30


def test_the_notes_configuration_passes() -> None:
    """EP8, hidden 7168, 12G heap."""
    assert rules.violations(GOOD) == ()
    rules.require(GOOD)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"gpus_per_node": 6, "world_size": 6, "num_experts": 252}, "no power of two"),
        ({"world_size": 12, "num_experts": 252, "kernel": "InterNodeV1"}, "no multiple of gpu_per_node"),
        ({"num_experts": 250}, "do not split over 8 ranks"),
        ({"top_k": 300}, "top-300 exceeds 256"),
        ({"kernel": "Internode"}, "unknown kernel type"),
        ({"world_size": 16}, "XGMI only"),
        ({"world_size": 16, "gpus_per_node": 16}, "at most 8 GPUs; say nodes=2"),
        ({"kernel": "InterNodeV1"}, "all ranks share one node: use IntraNode, or nodes="),
        ({"heap": "512M"}, "MORI_SHMEM_HEAP_SIZE=512M is smaller"),
        ({"heap_mode": "vmm"}, "is none MORI knows"),
        ({"init": "mpi"}, "choose one of process-group, unique-id"),
    ],
)
def test_broken_rules(change: dict[str, object], says: str) -> None:
    config = replace(GOOD, **change)  # type: ignore[arg-type]
    assert any(says in message for message in rules.violations(config))
    with pytest.raises(ValueError):
        rules.require(config)


def test_a_single_gpu_is_refused_and_small_groups_are_not() -> None:
    """MORI asserts IsPowerOf2(gpuPerNode) && worldSize % gpuPerNode == 0 (dispatch_combine.cpp, line 117).

    So it takes 2 and 4 GPUs where gpu_per_node says so, as vLLM (all2all.py: min(8, num_ep_ranks)) and SGLang
    (moriep.py: 8 if world_size >= 8 else world_size) do, and refuses them where that is left at its 8.
    """
    assert "one rank exchanges nothing" in rules.violations(replace(GOOD, world_size=1, gpus_per_node=1))[0]
    for ranks in (2, 4):
        assert rules.violations(replace(GOOD, world_size=ranks, gpus_per_node=ranks)) == ()
        refused = rules.violations(replace(GOOD, world_size=ranks, gpus_per_node=8))
        assert f"world size {ranks} is no multiple of gpu_per_node=8" in refused[0]


def test_world_size_need_not_be_a_power_of_two() -> None:
    """The documents say it must; MORI asserts only the GPUs per node. Three nodes of eight are fine."""
    config = replace(GOOD, world_size=24, num_experts=264, kernel="InterNodeV1", heap="48G")
    assert rules.violations(config) == ()


def test_the_guides_examples_pass_with_the_memory_that_mori_allocates() -> None:
    """InitializeShmemBuf: IntraNode has dispatchOut and combineInp of 32768 rows and combineOut of 4096.

    At the guide's 4 bytes an element that is 1.9 GiB (its 6G is ample), at the engines' 2 half of it.
    """
    guide = replace(GOOD, max_token_type_size=4)
    rows = (2 * 32768 + 4096) * 7168 * 4
    small = 32768 * (8 * 8 + 4 + 5 * 8 * 4) + 8 * 4096 * 32 * 4
    assert heap.need(guide) == rows + small
    assert 1.8 * GIB < heap.need(guide) < 2 * GIB
    assert 0.9 * GIB < heap.need(GOOD) < GIB
    for size in ("2G", "3G", ""):
        assert rules.violations(replace(guide, heap=size)) == (), (
            "4 GiB is the default (internal.hpp, line 61)"
        )


def test_more_nodes_take_more_heap() -> None:
    """InterNodeV1: 3 x nodes + 1 more buffers of a rank's own tokens; InterNode: three of all ranks'."""
    row = 7168 * 2
    transfer = row + 8 * 8 + 4
    small = 65536 * 5 * 8 * 4 + 16 * 4096 * 16 * 4
    v1 = (65536 + 4096) * row + (65536 + 7 * 4096) * transfer + small
    assert heap.need(TWO_NODES) == v1
    v0 = (65536 + 4096) * row + 3 * 65536 * transfer + small
    assert heap.need(replace(TWO_NODES, kernel="InterNode")) == v0


def test_a_cap_on_received_tokens_saves_heap() -> None:
    capped = replace(GOOD, max_total_recv_tokens=8192)
    assert capped.max_recv_tokens == 8192
    assert replace(GOOD, max_total_recv_tokens=10**6).max_recv_tokens == 32768
    assert heap.need(capped) < heap.need(GOOD) / 2.5


def test_scales_take_heap() -> None:
    assert heap.need(replace(GOOD, scale_dim=56)) == heap.need(GOOD) + 32768 * 56 * 4 * 3
    blockwise = replace(GOOD, quant_type="fp8_blockwise")
    assert heap.need(blockwise) == heap.need(GOOD) + 32768 * 56 * 4 * 2
    assert heap.need(replace(blockwise, quant_type="fp4_blockwise")) < heap.need(GOOD)


def test_the_heap_by_mode() -> None:
    """internal.hpp, lines 61 and 62: 4 GB static, 16 GB with vmm_heap; isolation has no heap."""
    large = replace(GOOD, max_tokens_per_rank=32768, heap="")
    assert "the default 4 GiB heap is smaller than the 7.5 GiB" in rules.violations(large)[0]
    assert "set MORI_SHMEM_HEAP_SIZE=10G" in rules.violations(large)[0]
    for mode in ("vmm_heap", "isolation"):
        assert rules.violations(replace(large, heap_mode=mode)) == ()
    assert heap.suggested_gib(GOOD) == 4, "never below the library's own"


@pytest.mark.parametrize(
    ("text", "size"),
    [("6G", 6 << 30), ("512M", 512 << 20), ("2GB", 2 << 30), ("1.5GiB", 3 << 29), ("4096", 4096)],
)
def test_sizes(text: str, size: int) -> None:
    assert heap.parse_size(text) == size


def test_sizes_that_are_none() -> None:
    with pytest.raises(ValueError, match="is no size"):
        heap.parse_size("plenty")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        # dispatch_combine.py, line 1792: "combine_recv only supports AsyncLL, got kernel_type={kt}"
        ({"split": True}, "only support AsyncLL, not InterNodeV1"),
        ({"split": True, "kernel": "AsyncLL", "call_reset": True}, "goes without call_reset=1"),
        # line 2006: "combine_standard_moe only supports IntraNode/InterNodeV1LL"
        ({"standard_moe": True}, "only supports IntraNode and InterNodeV1LL, not InterNodeV1"),
        ({**LL, "zero_copy": True}, "leave out zero_copy="),
        ({**LL, "dispatch_dtype": "fp8"}, "use dispatch_dtype=bf16"),
        # convert.hpp: hiddenBytes = config.HiddenDimSz() * config.maxTokenTypeSize
        ({**LL, "max_token_type_size": 4}, "max_token_type_size=2"),
        # dispatch_combine.hpp, line 128: #define MAX_EXPERTS_PER_TOKEN (9)
        ({**LL, "top_k": 10}, "holds 9 experts of a token at most"),
        # _normalize_quant_type: "invalid quant_type '{quant_type}', expected one of ..."
        ({"quant_type": "int8"}, "choose one of none, fp8_direct_cast, fp8_blockwise, fp4_blockwise"),
        # line 1505: f"{label} combine currently only supports {supported} combine"
        ({"quant_type": "fp8_blockwise"}, "combine of IntraNode/IntraNodeLL/AsyncLL, not of InterNodeV1"),
        ({"quant_type": "fp4_blockwise", "kernel": "AsyncLL"}, "of IntraNode/IntraNodeLL, not of AsyncLL"),
        # line 1621: the fp8cast kernel is chosen inside `elif actual_use_ext` of IntraNode, and for AsyncLL
        ({"quant_type": "fp8_direct_cast"}, "would combine in bf16 without a word"),
        ({"quant_type": "fp8_direct_cast", "kernel": "AsyncLL", "zero_copy": True}, "leave out zero_copy=1"),
    ],
)
def test_interfaces_that_only_some_kernels_have(change: dict[str, object], says: str) -> None:
    config = replace(TWO_NODES, **change)  # type: ignore[arg-type]
    assert any(says in message for message in rules.violations(config)), rules.violations(config)


def test_queue_pairs_beyond_the_contexts_are_said() -> None:
    """dispatch_combine.cpp, line 119: numQpPerPe larger than shmem's is set to shmem's; context.cpp: 4."""
    assert rules.notes(replace(GOOD, num_qp_per_pe=4)) == ()
    assert "becomes 4: set MORI_NUM_QP_PER_PE" in rules.notes(replace(GOOD, num_qp_per_pe=8))[0]
    assert rules.notes(replace(GOOD, num_qp_per_pe=8), "8") == ()
    assert "MORI_ENABLE_SDMA=1" in rules.notes(replace(TWO_NODES, kernel="AsyncLL"))[0]


@pytest.mark.parametrize(
    ("nodes", "priority", "kernel"),
    [
        (1, "throughput", "IntraNode"),
        (1, "latency", "IntraNode"),
        (2, "throughput", "InterNodeV1"),
        (4, "latency", "InterNodeV1LL"),
        (2, "baseline", "InterNode"),
        (2, "overlap", "AsyncLL"),
    ],
)
def test_kernel_by_topology_and_priority(nodes: int, priority: str, kernel: str) -> None:
    assert mori_config.choose_kernel(nodes, priority) == kernel


def test_an_unknown_priority_is_named() -> None:
    with pytest.raises(ValueError, match="choose one of throughput, latency, overlap, baseline"):
        mori_config.choose_kernel(2, "speed")


def test_options_become_a_configuration() -> None:
    options = {"zero_copy": "1", "num_qp_per_pe": "2", "max_total_recv_tokens": "8192", "init": "unique-id"}
    config = mori_config.configured(options, {"MORI_SHMEM_HEAP_SIZE": "12G"}, GOOD)
    assert (config.zero_copy, config.num_qp_per_pe, config.max_recv_tokens) == (True, 2, 8192)
    assert (config.init, config.heap, config.kernel) == ("unique-id", "12G", "IntraNode")
    with pytest.raises(ValueError, match="zero_copy='yes' is neither 0 nor 1"):
        mori_config.configured({"zero_copy": "yes"}, {}, GOOD)
    with pytest.raises(ValueError, match="num_qp_per_pe='many' is no positive whole number"):
        mori_config.configured({"num_qp_per_pe": "many"}, {}, GOOD)


def test_launch_parameters_are_those_of_the_library() -> None:
    """python/mori/ops/dispatch_combine.py, lines 596 to 620; the guide has 96 / 64 / 8 for both."""
    v1 = {"block_num": 96, "rdma_block_num": 64, "warp_num_per_block": 8}
    assert rules.launch_parameters("InterNodeV1") == v1
    assert tuple(rules.launch_parameters("InterNodeV1LL").values()) == (256, 128, 8)
    assert tuple(rules.launch_parameters("IntraNode").values()) == (128, 0, 16)


def test_launch_parameters_that_cannot_act() -> None:
    assert rules.launch_refusal("MANUAL", GOOD, {"block_num": 64}) == ""
    assert "ignores block_num" in rules.launch_refusal("AUTO", GOOD, {"block_num": 64})
    assert "MANUAL or AUTO" in rules.launch_refusal("FAST", GOOD, {})
    split = replace(TWO_NODES, kernel="AsyncLL", split=True)
    assert "takes no launch parameters" in rules.launch_refusal("MANUAL", split, {"block_num": 64})
    starved = rules.launch_refusal("MANUAL", TWO_NODES, {"block_num": 64})
    assert "rdma_block_num=64 leaves no block of 64" in starved
    assert rules.launch_refusal("MANUAL", TWO_NODES, {"block_num": 64, "rdma_block_num": 32}) == ""


def test_tokens_per_rank() -> None:
    assert rules.check_batch(4096, GOOD) == ""
    assert "max_num_batched_tokens" in rules.check_batch(4097, GOOD)
