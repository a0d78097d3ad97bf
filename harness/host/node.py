"""What a GPU node's speed depends on besides its GPUs: memory placement, IOMMU, links, clocks, driver."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from pathlib import Path

import msgspec

from harness.host import gpus
from harness.host.check import Check
from harness.schema import Accelerator, Noun

_GPU_VENDORS = ("0x10de", "0x1002")
_GPU_CLASSES = ("0x0302", "0x0380", "0x1200")
"""PCI classes: 3D and other display controllers, processing accelerators."""
_XGMI = "11"
"""Type of a link between two AMD GPUs in the KFD's topology (HSA_IOLINKTYPE_XGMI)."""
_CUDA_TAG = re.compile(r"-cu(\d\d)(\d)\b")


class Node(Noun):
    """This machine as a host of GPUs."""

    num_numa_nodes: int = 0
    numa_balancing: bool = False
    governor: str = ""
    """How CPU 0 chooses its clock: performance, powersave ...; "" where nothing says so."""
    gpu_iommu: tuple[str, ...] = ()
    """Domains that the GPUs' addresses are translated by: identity, DMA, DMA-FQ."""
    num_pairs: int = 0
    """Pairs of GPUs whose link is known."""
    num_linked: int = 0
    """Of those, joined by NVLink or XGMI."""
    cuda: str = ""
    """Newest CUDA that the driver runs, as 13.0; "" without NVIDIA's."""
    image_cuda: dict[str, str] = msgspec.field(default_factory=dict)
    """Image -> CUDA it was built on, where it says so."""


def look(accelerator: Accelerator, image_cuda: Mapping[str, str], root: Path = Path("/")) -> Node:
    """Read the node. `image_cuda`: CUDA_VERSION of the images that are here."""
    links = list(_nvidia_links()) if accelerator == "cuda" else list(_amd_links(root))
    return Node(
        num_numa_nodes=len(list(root.glob("sys/devices/system/node/node[0-9]*"))),
        numa_balancing=_text(root / "proc/sys/kernel/numa_balancing") not in ("", "0"),
        governor=_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        gpu_iommu=tuple(sorted(set(_gpu_iommu(root)))),
        num_pairs=len(links),
        num_linked=sum(links),
        cuda=_cuda() if accelerator == "cuda" else "",
        image_cuda=dict(image_cuda),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _gpu_iommu(root: Path) -> Iterator[str]:
    for device in root.glob("sys/bus/pci/devices/*"):
        domain = _text(device / "iommu_group" / "type")
        ours = _text(device / "vendor") in _GPU_VENDORS
        if domain and ours and _text(device / "class").startswith(_GPU_CLASSES):
            yield domain


def _nvidia_links() -> Iterator[bool]:
    """Per pair of GPUs: does NVLink join them? Nothing where the driver does not say."""
    with gpus.nvml() as nvml:
        if nvml is None:
            return
        with contextlib.suppress(nvml.NVMLError):
            handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
            for one, other in combinations(handles, 2):
                status = nvml.nvmlDeviceGetP2PStatus(one, other, nvml.NVML_P2P_CAPS_INDEX_NVLINK)
                yield status == nvml.NVML_P2P_STATUS_OK


def _cuda() -> str:
    with gpus.nvml() as nvml:
        number = int(nvml.nvmlSystemGetCudaDriverVersion_v2()) if nvml else 0
        return f"{number // 1000}.{number % 1000 // 10}" if number else ""


def _amd_links(root: Path) -> Iterator[bool]:
    """Per pair of GPUs of the KFD's topology: does XGMI join them?"""
    nodes = root.glob("sys/class/kfd/kfd/topology/nodes/[0-9]*")
    devices = sorted(n for n in nodes if int(_properties(n).get("simd_count", "0")) > 0)
    joined = {(gpu.name, target) for gpu in devices for target in _xgmi_targets(gpu)}
    for one, other in combinations(devices, 2):
        yield (one.name, other.name) in joined or (other.name, one.name) in joined


def _xgmi_targets(gpu: Path) -> Iterator[str]:
    for link in gpu.glob("io_links/*"):
        found = _properties(link)
        if found.get("type") == _XGMI:
            yield found.get("node_to", "")


def _properties(folder: Path) -> dict[str, str]:
    pairs = (line.split(maxsplit=1) for line in _text(folder / "properties").splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def checks(node: Node, accelerator: Accelerator, images: Iterable[str]) -> Iterator[Check]:
    """What matters on a machine with GPUs. `images`: those that its variants would run."""
    if accelerator == "cpu":
        return
    yield Check(
        name="NUMA balancing",
        state="warn" if node.numa_balancing and node.num_numa_nodes > 1 else "ok",
        detail=f"{'on' if node.numa_balancing else 'off'}, {node.num_numa_nodes} NUMA nodes",
        advice="it moves pages under running kernels: sysctl kernel.numa_balancing=0",
    )
    if node.gpu_iommu:
        translated = any(domain.startswith("DMA") for domain in node.gpu_iommu)
        yield Check(
            name="IOMMU",
            state="warn" if translated else "ok",
            detail=f"GPUs are in domains {', '.join(node.gpu_iommu)}",
            advice="copies between GPUs are translated, or hang: boot with iommu=pt",
        )
    if node.governor:
        yield Check(
            name="CPU clocks",
            state="ok" if node.governor == "performance" else "warn",
            detail=f"governor {node.governor}",
            advice="schedulers and client run on the CPU: cpupower frequency-set -g performance",
        )
    if node.num_pairs:
        kind = "NVLink" if accelerator == "cuda" else "XGMI"
        yield Check(
            name="GPU links",
            state="ok" if node.num_linked == node.num_pairs else "warn",
            detail=f"{kind} joins {node.num_linked} of {node.num_pairs} pairs of GPUs",
            advice="the others go over PCIe, and so does all of TP and EP between them: look at "
            f"`{'nvidia-smi topo -m' if accelerator == 'cuda' else 'rocm-smi --showtopo'}`",
        )
    yield from _driver(node, images)


def _driver(node: Node, images: Iterable[str]) -> Iterator[Check]:
    """A driver runs images of its own major version of CUDA and older ones."""
    if not node.cuda:
        return
    built = {image: node.image_cuda.get(image) or _tagged(image) for image in images}
    newer = {image: cuda for image, cuda in built.items() if cuda and _major(cuda) > _major(node.cuda)}
    for image, cuda in newer.items():
        yield Check(
            name="CUDA driver",
            state="warn",
            detail=f"{image} is built on CUDA {cuda}, this driver runs {node.cuda}",
            advice="update the driver (580 or newer runs CUDA 13), or give the variant an image of CUDA 12",
        )
    if not newer:
        yield Check(name="CUDA driver", state="ok", detail=f"runs CUDA {node.cuda}")


def _tagged(image: str) -> str:
    found = _CUDA_TAG.search(image)
    return f"{found[1]}.{found[2]}" if found else ""


def _major(version: str) -> int:
    return int(version.partition(".")[0])
