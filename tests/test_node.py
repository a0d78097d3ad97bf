"""What `just doctor` says of a node's placement, IOMMU, links, clocks and driver."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.host.node import Node, checks, look

IMAGE = "lmsysorg/sglang:v0.5.23-cu130"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")


def kfd(node: int, simds: int, links: dict[int, int]) -> dict[str, str]:
    """Files of one node of the KFD's topology; links: other node -> type of link."""
    folder = f"sys/class/kfd/kfd/topology/nodes/{node}"
    files = {f"{folder}/properties": f"cpu_cores_count 0\nsimd_count {simds}"}
    for i, (other, kind) in enumerate(links.items()):
        files[f"{folder}/io_links/{i}/properties"] = f"type {kind}\nnode_from {node}\nnode_to {other}"
    return files


def test_an_amd_node_is_read_from_its_files(tmp_path: Path) -> None:
    gpu = "sys/bus/pci/devices/0000:c1:00.0"
    write(
        tmp_path,
        {
            "proc/sys/kernel/numa_balancing": "1",
            "sys/devices/system/node/node0/meminfo": "",
            "sys/devices/system/node/node1/meminfo": "",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave",
            f"{gpu}/vendor": "0x1002",
            f"{gpu}/class": "0x120000",
            f"{gpu}/iommu_group/type": "DMA-FQ",
            "sys/bus/pci/devices/0000:01:00.0/vendor": "0x8086",
            "sys/bus/pci/devices/0000:01:00.0/class": "0x020000",
            "sys/bus/pci/devices/0000:01:00.0/iommu_group/type": "identity",
            **kfd(0, 0, {1: 2, 2: 2, 3: 2}),
            **kfd(1, 1216, {0: 2, 2: 11, 3: 11}),
            **kfd(2, 1216, {0: 2, 1: 11}),
            **kfd(3, 1216, {0: 2, 1: 11}),
        },
    )
    found = look("rocm", {}, tmp_path)
    assert found == Node(
        num_numa_nodes=2,
        numa_balancing=True,
        governor="powersave",
        gpu_iommu=("DMA-FQ",),
        num_pairs=3,
        num_linked=2,
    )
    said = {check.name: check for check in checks(found, "rocm", ())}
    assert {name for name, check in said.items() if check.state == "warn"} == set(said)
    assert said["GPU links"].detail == "XGMI joins 2 of 3 pairs of GPUs"
    assert all(check.advice for check in said.values())


def test_a_node_in_order_has_nothing_to_mend() -> None:
    node = Node(
        num_numa_nodes=2,
        governor="performance",
        gpu_iommu=("identity",),
        num_pairs=28,
        num_linked=28,
        cuda="13.0",
        image_cuda={IMAGE: "13.0.1"},
    )
    assert {check.state for check in checks(node, "cuda", (IMAGE,))} == {"ok"}


def test_a_machine_without_gpus_is_told_nothing(tmp_path: Path) -> None:
    assert not list(checks(look("cpu", {}, tmp_path), "cpu", (IMAGE,)))


@pytest.mark.parametrize(
    ("driver", "image_cuda", "image", "warned"),
    [
        ("12.8", {}, IMAGE, True),  # its tag says 13.0
        ("12.8", {}, "lmsysorg/sglang:v0.5.23-cu129", False),
        ("12.8", {"vllm/vllm-openai:v0.32.0": "13.0.1"}, "vllm/vllm-openai:v0.32.0", True),
        ("13.1", {IMAGE: "13.0.1"}, IMAGE, False),
        ("12.8", {}, "vllm/vllm-openai:v0.32.0", False),  # nothing is known of it
    ],
)
def test_an_image_needs_a_driver_of_its_cuda(
    driver: str, image_cuda: dict[str, str], image: str, warned: bool
) -> None:
    node = Node(cuda=driver, image_cuda=image_cuda)
    (said,) = [check for check in checks(node, "cuda", (image,)) if check.name == "CUDA driver"]
    assert (said.state == "warn") == warned
    assert not warned or (image in said.detail and driver in said.detail)
