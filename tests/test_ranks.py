"""Ranks of several nodes: what each is told, what a scheduler is told, which nodes go together."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec
import pytest

from benchmarks import namespaces, slurm, two_nodes
from harness import registry
from harness.errors import InputError
from harness.host.machine import probe
from harness.label import every_rank
from harness.plan import everything
from harness.ranks import agent, lines, nodes, plans
from harness.ranks.look import Look, Met
from harness.schema import Effective, Evidence, Launch
from tests.launching import render, render_variant

LEFT = Look(host="left", addresses={"eth0": "10.0.0.1"}, same={"weights": "a"}, cpu_mb_s=300, memory_gb_s=8)
RIGHT = msgspec.structs.replace(LEFT, host="right", addresses={"eth0": "10.0.0.2"})


def spread(name: str, num: int = 2) -> Launch:
    return render(f"{name}-n{num}", launcher="slurm", port=8000)


def after(argv: tuple[str, ...], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def test_vllm_shares_data_parallelism() -> None:
    """docs/serving/data_parallel_deployment.md: the head has no start rank, the others no server."""
    first, second = spread("vllm-mori-x16").ranks
    for rank in (first, second):
        assert after(rank.argv, "--data-parallel-size") == "16"
        assert after(rank.argv, "--data-parallel-size-local") == "8"
        assert after(rank.argv, "--data-parallel-address") == "{head}"
        assert rank.env["MORI_SHMEM_HEAP_SIZE"] == "16G"
    assert not {"--headless", "--data-parallel-start-rank"} & set(first.argv)
    assert "--headless" in second.argv and after(second.argv, "--data-parallel-start-rank") == "8"


def test_vllm_spans_a_tensor_group() -> None:
    """docs/serving/parallelism_scaling.md."""
    first, second = spread("vllm-ep-x16").ranks
    assert [after(r.argv, "--node-rank") for r in (first, second)] == ["0", "1"]
    assert after(second.argv, "--nnodes") == "2" and after(second.argv, "--master-addr") == "{head}"
    assert "--headless" in second.argv and "--headless" not in first.argv


@pytest.mark.parametrize("name", ["sglang-tp-x16", "sglang-dp-x16", "sglang-deepep-x16", "sglang-mori-x16"])
def test_sglangs_nodes_differ_in_their_number_alone(name: str) -> None:
    """docs.sglang.io, references/multi_node_deployment/multi_node."""
    first, second = (list(rank.argv) for rank in spread(name).ranks)
    assert [(a, b) for a, b in zip(first, second, strict=True) if a != b] == [("0", "1")]
    assert first[first.index("--dist-init-addr") + 1] == "{head}:15777"


def test_tensorrt_llm_is_one_world_of_mpi() -> None:
    """docs.nvidia.com/dynamo, multinode examples: srun starts every rank with the same words."""
    launch = spread("trtllm-ep-x16")
    assert launch.argv[:2] == ("trtllm-llmapi-launch", "trtllm-serve")
    text = plans.slurm(launch)
    assert "--ntasks-per-node=8" in text and "--mpi=pmix --container-image=" in text
    with pytest.raises(InputError, match="one world of MPI"):
        plans.script(launch)


def test_one_node_is_one_rank() -> None:
    for name in ("vllm-mori", "sglang-mori", "trtllm-ep"):
        launch = render(name)
        assert len(launch.ranks) == 1 and not launch.others and "{head}" not in " ".join(launch.argv)


def test_a_layout_that_nodes_cannot_share_is_refused() -> None:
    with pytest.raises(InputError, match="cannot share evenly; give vllm-cpu-x16 nodes=2"):
        registry.variant("vllm-cpu-n2")


def test_an_engine_of_one_node_says_so() -> None:
    wide = msgspec.structs.replace(registry.variant("llamacpp"), nodes=2)
    with pytest.raises(InputError, match="llamacpp runs on one node only"):
        render_variant(wide, launcher="slurm", model="tiny-moe")


def test_a_launcher_of_one_machine_is_refused_for_two() -> None:
    with pytest.raises(InputError, match="launcher=process starts engines on one machine"):
        everything(["vllm-mori-x16", "nodes=2", "launcher=process", "1000/100"], probe())


def test_every_variant_is_rendered_for_every_scheduler_and_bash_reads_it(tmp_path: Path) -> None:
    """All that have ranks to share, on one node and on two; srun's, LWS's and a person's are bash."""
    num = 0
    for name, variant in registry.variants().items():
        if variant.engine not in ("vllm", "sglang", "trtllm"):
            continue
        for launch in (render(name), *([spread(name)] if variant.parallel.num_gpus > 1 else [])):
            for kind, rendered in plans.KINDS.items():
                if (launch.mpi and kind != "slurm") or (kind == "lws" and not launch.image):
                    continue
                text = rendered(launch)
                assert str(launch.port) in text and "{head}" not in text
                if kind in ("slurm", "script"):
                    (tmp_path / f"{num}.sh").write_text(text)
                num += 1
    assert num > 250
    read = f"for f in {tmp_path}/*.sh; do bash -n $f || echo $f; done"
    done = subprocess.run(["bash", "-c", read], capture_output=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_a_scheduler_that_nobody_knows_is_refused() -> None:
    with pytest.raises(InputError, match="as=ray is no scheduler known here; there are: slurm, lws"):
        plans.known("ray")


def test_srun_leaves_pieces_whole_and_they_become_lines_again() -> None:
    long = "server_args=" + "ü" * 2000
    pieces = [piece.decode() for piece in lines.cut(long.encode())]
    assert all(len(piece.encode()) < 1000 for piece in pieces) and len(pieces) > 3
    labelled = [f"1: {pieces[0]}", "0: between", *(f"1: {piece}" for piece in pieces[1:]), "srun: x"]
    assert lines.by_rank(labelled, 2) == [("between",), (long,)]
    assert lines.by_rank(["a: b"], 1) == [("a: b",)]


OTHER = msgspec.structs.replace(RIGHT, same={"weights": "b"})
FAULTY: tuple[tuple[Look, Met, str], ...] = (
    (OTHER, Met(), "the nodes differ in weights: left a, right b"),
    (RIGHT, Met(problem="does not reach 10.0.0.1:1 (late)"), "right does not reach 10.0.0.1:1 (late)"),
    (RIGHT, Met(offset_s=2.0, round_trip_s=0.001), "the clock of right is +2.000 s off that of left"),
    (RIGHT, Met(offset_s=0.06, round_trip_s=0.05), ""),
)


@pytest.mark.parametrize(("right", "met", "said"), FAULTY)
def test_what_keeps_nodes_apart_is_said_of_the_node(right: Look, met: Met, said: str) -> None:
    assert nodes.faults((LEFT, right), (Met(), met)) == ((said,) if said else ())


def test_one_foreign_node_of_three_is_named() -> None:
    third = msgspec.structs.replace(OTHER, host="third")
    (said,) = nodes.faults((LEFT, RIGHT, third), (Met(),) * 3)
    assert said == "third has another weights than the other nodes: b, they a"


def test_a_port_in_use_counts_on_the_first_node_only() -> None:
    busy = {"busy_ports": (8000,)}
    left, right = msgspec.structs.replace(LEFT, **busy), msgspec.structs.replace(RIGHT, **busy)
    assert nodes.faults((left, RIGHT), (Met(), Met())) == ("port 8000 is in use on left",)
    assert nodes.faults((LEFT, right), (Met(), Met())) == ()


def test_a_slow_node_is_named() -> None:
    slow = msgspec.structs.replace(RIGHT, cpu_mb_s=200)
    assert nodes.slow((LEFT, slow)) == ("right is slow: 200 MB/s of sha256, the fastest node 300",)


@pytest.mark.parametrize(
    ("told", "away"),
    [
        ([(7.0, False), (7.0, False)], (1,)),
        ([(5.0, False), (5.0, False)], ()),
        ([(7.0, True), (7.0, True)], ()),
        ([(0.5, False), (40.0, False)], ()),
        ([(20.0, False), (60.0, False)], ()),
        ([(41.0, False), (81.0, False)], (1,)),
        ([(9.0, True), (9.0, True), (8.0, False)], (2,)),
    ],
)
def test_a_rank_is_absent_once_nobody_works_and_a_caller_would_have_called_again(
    told: list[tuple[float, bool]], away: tuple[int, ...]
) -> None:
    """One that has called in vain for 40 s may sleep as long before it calls again (torch's rendezvous)."""
    assert nodes.absent(told) == away


def test_a_process_that_cannot_be_seen_is_not_taken_for_idle() -> None:
    mine = agent.work(os.getpid())
    assert agent.work(None) is None and agent.work(0) is None and agent.work(2**22 + 1) is None
    assert mine is not None and mine.cpu_s > 0 and mine.read_bytes > 0


MET = "[harness] rank {0} on n{0}: joined, sent {1} bytes over eth1"


def _parse(evidence: Evidence) -> Effective:
    size = next((int(line[3:]) for line in evidence.log if line.startswith("tp=")), None)
    return Effective(engine_version="0.5.23", tensor_parallel_size=size)


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (("tp=2", MET.format(1, 5)), ""),
        (("tp=1", MET.format(1, 5)), "tensor_parallel_size of rank 1: label says 2, engine runs 1"),
        (("tp=2", MET.format(1, 0)), "rank 1 sent to other nodes: label says True, engine runs False"),
        (("tp=2", MET.format(1, 5).replace("joined", "not joined")), "rank 1 joined: label says True"),
        (("tp=2",), "rank 1 joined: label says True, engine does not show it"),
        ((MET.format(1, 5),), "sizes of rank 1: label says 'shown', engine does not show it"),
    ],
)
def test_a_label_holds_when_every_ranks_log_shows_it(second: tuple[str, ...], reason: str) -> None:
    variant = msgspec.structs.replace(
        registry.variant("sglang-cpu-tp2-n2"), expect={"tensor_parallel_size": 2}, version="0.5.23"
    )
    evidence = Evidence(log=("tp=2", MET.format(0, 7)), other_logs=(second,))
    attested = every_rank.attest_all(_parse, evidence, variant)
    assert attested.reason.startswith(reason) and attested.valid == (not reason)


WHOLE = bool(slurm.missing()) or not namespaces.usable()


@pytest.mark.engine
@pytest.mark.skipif(WHOLE, reason="needs slurm-wlm, munge and root")
def test_a_rank_that_dies_on_one_of_two_nodes_ends_the_other_and_is_named() -> None:
    assert two_nodes.fault("worker dies", "mock-pair")
