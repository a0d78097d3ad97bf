"""Configuration rules of MORI-EP: each broken rule is one sentence that says what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ep_check import rules
from ep_check.rules import EpConfig
from harness.errors import InputError

GOOD = EpConfig(world_size=8, max_tokens_per_rank=4096, heap="12G")


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
        ({"kernel": "InterNodeV1"}, "all ranks share one node: use IntraNode"),
        ({"heap": "1G"}, "MORI_SHMEM_HEAP_SIZE=1G is smaller"),
        ({"heap": ""}, "the default 2 GiB heap is smaller"),
    ],
)
def test_broken_rules(change: dict[str, object], says: str) -> None:
    config = replace(GOOD, **change)  # type: ignore[arg-type]
    assert any(says in message for message in rules.violations(config))
    with pytest.raises(InputError):
        rules.require(config)


def test_world_size_need_not_be_a_power_of_two() -> None:
    """The documents say it must; MORI asserts only the GPUs per node. Three nodes of eight are fine."""
    config = replace(GOOD, world_size=24, num_experts=264, kernel="InterNodeV1", heap="48G")
    assert rules.violations(config) == ()


def test_heap_estimate() -> None:
    """8 x 4096 received tokens x 4 buffers x 7168 x 4 bytes = 3.5 GiB, and a little for ids and weights."""
    need = rules.heap_bytes(GOOD)
    assert 3.5 * (1 << 30) <= need < 3.6 * (1 << 30)
    assert GOOD.suggested_heap_gib == 5
    assert rules.heap_bytes(replace(GOOD, scale_dim=56)) > need


@pytest.mark.parametrize(
    ("text", "size"),
    [("6G", 6 << 30), ("512M", 512 << 20), ("2GB", 2 << 30), ("1.5GiB", 3 << 29), ("4096", 4096)],
)
def test_sizes(text: str, size: int) -> None:
    assert rules.parse_size(text) == size


def test_sizes_that_are_none() -> None:
    with pytest.raises(InputError, match="is no size"):
        rules.parse_size("plenty")


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
    assert rules.choose_kernel(nodes, priority) == kernel


def test_an_unknown_priority_is_named() -> None:
    with pytest.raises(InputError, match="choose one of throughput, latency, overlap, baseline"):
        rules.choose_kernel(2, "speed")


def test_launch_parameters() -> None:
    assert rules.launch_parameters("InterNodeV1")["rdma_block_num"] == 64
    assert rules.launch_parameters("IntraNode")["block_num"] == 128
    assert rules.launch_warning("MANUAL", {"block_num": 64}) == ""
    assert "ignores block_num" in rules.launch_warning("AUTO", {"block_num": 64})
    with pytest.raises(InputError, match="MANUAL or AUTO"):
        rules.launch_warning("FAST", {})


def test_tokens_per_rank() -> None:
    assert rules.check_batch(4096, GOOD) == ""
    assert "max_num_batched_tokens" in rules.check_batch(4097, GOOD)
