"""Other projects' kernel benches: the command in a variant's image or here, and what is read of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness import registry
from harness.ep import kernel_bench, verbs
from harness.errors import InputError, MachineError
from harness.schema import Gpu, Launch, Machine
from tests.containers import HOST_IMAGE, PYTHON, engine_client, host_mounts

NOTHING = Machine(accelerator="cpu")
GPUS = tuple(Gpu(index=i, name="MI300X", memory_gb=192.0) for i in range(8))
MI300X = Machine(accelerator="rocm", gpus=GPUS)


def test_moris_bench_is_rendered_in_the_variants_image_and_refused_where_no_such_gpu_is() -> None:
    """The commands of docs/MORI-EP-BENCHMARK.md at ROCm/mori 624002c, in our image."""
    words = [
        "mori",
        "variant=vllm-mori-built",
        "max_tokens=4096",
        "dtype=fp8_e4m3_fnuz",
        "combine_dtype=bf16",
    ]
    text, status = verbs.kernel_bench(words, NOTHING)
    assert status == kernel_bench.SKIPPED
    assert text.endswith("not run: it needs rocm GPUs, this machine has none")
    assert "docker run --rm" in text and "--device /dev/kfd" in text and " vllm-mori:v0.32.0 " in text
    assert "--entrypoint bash" in text and "MORI_SHMEM_HEAP_SIZE=12G" in text
    script = "tests/python/ops/bench_dispatch_combine.py"
    assert f"[ -f /opt/src/mori/{script} ] && cd /opt/src/mori" in text
    assert f"exec python3 {script} --max-tokens 4096 --dtype fp8_e4m3_fnuz --combine-dtype bf16" in text


def test_a_missing_image_is_said_with_how_to_get_it() -> None:
    text, status = verbs.kernel_bench(["mori", "variant=vllm-mori-built"], MI300X)
    assert status == kernel_bench.SKIPPED and "no Docker Engine answers" in text.splitlines()[-1]


def test_the_folder_that_our_image_keeps_is_looked_into() -> None:
    dockerfile = (registry.ROOT / "docker" / "vllm-mori.Dockerfile").read_text()
    assert 'git clone "${MORI_REPO}" /opt/src/mori' in dockerfile
    for name in ("mori", "mori-internode"):
        assert "/opt/src/mori" in kernel_bench.benches()[name].roots


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "one name of mori, mori-internode, moe"),
        (["deepep", "variant=vllm-mori"], "no kernel bench 'deepep': choose one of mori"),
        (["moe"], "give variant=NAME for an image that holds it"),
        (["moe", "variant=vllm-mori", "python=python3", "source=."], "give variant=NAME"),
        (["moe", "variant=vllm-mori", "nodes=2"], "moe runs on one node"),
        (["mori-internode", "variant=vllm-mori"], "give python= and source= on every node"),
        (["moe", f"python={sys.executable}", "source=/nowhere"], "/nowhere has no benchmarks/kernels"),
        (["moe", "variant=nothing"], "nothing"),
    ],
)
def test_mistakes(words: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        verbs.kernel_bench(words, NOTHING)


def test_a_variant_of_other_gpus_is_refused() -> None:
    text, status = verbs.kernel_bench(["mori", "variant=vllm-cuda-tp"], MI300X)
    assert status == kernel_bench.SKIPPED and "it needs rocm GPUs, vllm-cuda-tp is for cuda" in text


def checkout(folder: Path, script: str, prints: str) -> Path:
    """A project's folder whose script prints its arguments and a bench's output."""
    path = folder / script
    path.parent.mkdir(parents=True)
    path.write_text(f"import os, sys\nprint(sys.argv[1:], os.environ['PYTHONPATH'])\nprint({prints!r})\n")
    return folder


def test_benchmark_moe_runs_on_this_machine_and_is_read(tmp_path: Path) -> None:
    """What it prints is that of vllm-project/vllm pull request 36559; the options are the documents'."""
    printed = "Batch size: 8192, config: {'BLOCK_SIZE_M': 16}\nKernel time: 1234.56 us"
    source = checkout(tmp_path / "vllm", "benchmarks/kernels/benchmark_moe.py", printed)
    words = ["moe", f"python={sys.executable}", f"source={source}", f"out={tmp_path / 'kept.txt'}"]
    words += ["model=deepseek-ai/DeepSeek-R1", "batch_size=2,4", "tp_size=8", "trust_remote_code=yes"]
    text, status = verbs.kernel_bench(words, NOTHING)
    assert status == 0 and "8192 tokens moe" in text and "1234.6 us" in text
    kept = (tmp_path / "kept.txt").read_text()
    given = [
        "--model",
        "deepseek-ai/DeepSeek-R1",
        "--batch-size",
        "2",
        "4",
        "--tp-size",
        "8",
        "--trust-remote-code",
    ]
    assert kept.splitlines()[0] == f"{given} {source}"


def test_a_bench_without_a_timing_shows_its_last_words(tmp_path: Path) -> None:
    source = checkout(tmp_path / "vllm", "benchmarks/kernels/benchmark_moe.py", "no GPU found")
    with pytest.raises(MachineError, match="printed no timing") as failure:
        verbs.kernel_bench(["moe", f"python={sys.executable}", f"source={source}"], NOTHING)
    assert "no GPU found" in failure.value.details


def test_several_nodes_get_a_line_each(tmp_path: Path) -> None:
    """docs/MORI-EP-BENCHMARK.md: --nproc_per_node=1, the script starts the node's own ranks."""
    source = checkout(tmp_path / "mori", kernel_bench.benches()["mori-internode"].script, "")
    words = ["mori-internode", "python=python3", f"source={source}", "nodes=2", "master=10.194.129.65:1234"]
    words += ["interface=ens14np0", "rdma_devices=^mlx5_0,mlx5_1", "max_tokens=4096", "kernel_type=v1"]
    text, status = verbs.kernel_bench(words, NOTHING)
    first, second = (line for line in text.splitlines() if "torch.distributed.run" in line)
    assert status == 0 and "--nnodes 2 --node-rank 0 --nproc-per-node 1 --master-addr 10.194.129.65" in first
    assert second.endswith(
        "test_dispatch_combine_internode.py --cmd bench --max-tokens 4096 --kernel-type v1"
    )
    assert "GLOO_SOCKET_IFNAME=ens14np0" in second and "MORI_RDMA_DEVICES='^mlx5_0,mlx5_1'" in second


@pytest.fixture
def engine() -> Iterator[Any]:
    """A client of a real Docker Engine."""
    yield from engine_client()


@pytest.mark.docker
def test_a_bench_in_a_container_is_read_to_its_end(engine: Any, tmp_path: Path) -> None:
    """In a container of this machine's own /usr; the second root has the script."""
    source = checkout(
        tmp_path / "moe", "benchmarks/kernels/benchmark_moe.py", "Batch size: 8\nKernel time: 9.50 us"
    )
    bench = msgspec.structs.replace(kernel_bench.benches()["moe"], roots=("/nowhere", str(source)))
    shell = kernel_bench.in_shell(bench, {"batch_size": "8"}, PYTHON)
    mounts = {**host_mounts(), str(tmp_path): str(tmp_path)}
    launch = Launch(
        variant="kernel-bench", launcher="docker", image=HOST_IMAGE, argv=("bash", "-c", shell), mounts=mounts
    )
    text = kernel_bench.contained(launch)
    assert f"['--batch-size', '8'] {source}" in text
    assert "9.5 us" in kernel_bench.report(text)
    lost = kernel_bench.in_shell(msgspec.structs.replace(bench, roots=("/nowhere",)), {}, PYTHON)
    text = kernel_bench.contained(msgspec.structs.replace(launch, argv=("bash", "-c", lost)))
    assert "no benchmarks/kernels/benchmark_moe.py under /nowhere of this image" in text
