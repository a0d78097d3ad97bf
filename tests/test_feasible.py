"""Why a variant can or cannot run on a machine."""

import msgspec
import pytest

from harness import models, registry
from harness.host.machine import probe
from harness.label.feasible import feasible, weights_per_gpu_gb
from harness.schema import Accelerator, Gpu, Machine, Model, MoeFacts

R1 = msgspec.structs.replace(models.models()["deepseek-r1"], path="/weights/r1")
IMAGES = tuple({v.image for v in registry.variants().values() if v.image})


def _machine(kind: Accelerator, gpu: str = "", memory_gb: float = 0.0, num: int = 8) -> Machine:
    gpus = tuple(Gpu(index=i, name=gpu, memory_gb=memory_gb) for i in range(num if gpu else 0))
    return Machine(
        accelerator=kind, gpus=gpus, docker="28.0", images=IMAGES, environments=("vllm-cpu", "sglang-cpu")
    )


MI300X = _machine("rocm", "MI300X", 192)
H200 = _machine("cuda", "H200", 139)
H100 = _machine("cuda", "H100", 80)
LAPTOP = msgspec.structs.replace(_machine("cpu"), docker="", images=())


@pytest.mark.parametrize(
    ("name", "machine", "words"),
    [
        ("vllm-mori", MI300X, ""),
        ("vllm-noep", MI300X, ""),
        ("vllm-mori", H200, "needs rocm GPUs, this machine has 8 of cuda"),
        ("vllm-mori", LAPTOP, "needs rocm GPUs, this machine has none"),
        ("vllm-ep", H200, ""),
        ("trtllm-ep", H200, ""),
        ("vllm-deepep-ht", H200, ""),
        ("vllm-deepep-ht", H100, "the smallest here has 80 GB"),
        ("vllm-ep", _machine("cuda", "H200", 139, num=4), "needs 8 GPUs, this machine has 4"),
    ],
)
def test_accelerators_and_memory(name: str, machine: Machine, words: str) -> None:
    reason = feasible(registry.variant(name), machine, R1)
    assert (words in reason) if words else reason == ""


def test_dp8_ep8_of_deepseek_r1_takes_about_101_gb_a_gpu() -> None:
    """81.7 GB of routed experts plus about 19 GB of everything else, replicated."""
    assert weights_per_gpu_gb(registry.variant("vllm-deepep-ht"), R1) == pytest.approx(101.4, abs=1)
    assert weights_per_gpu_gb(registry.variant("sglang-dp"), R1) == pytest.approx(101.4, abs=1)
    assert weights_per_gpu_gb(registry.variant("vllm-noep"), R1) == pytest.approx(688.6 / 8)


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (msgspec.structs.replace(H200, docker=""), "cannot import vllm"),
        (msgspec.structs.replace(H200, docker="", importable=("vllm",)), ""),
        (msgspec.structs.replace(H200, images=()), "docker pull vllm/vllm-openai:v0.32.0"),
    ],
)
def test_software(machine: Machine, words: str) -> None:
    reason = feasible(registry.variant("vllm-ep"), machine, R1)
    assert (words in reason) if words else reason == ""


def test_image_built_here_names_the_build() -> None:
    machine = msgspec.structs.replace(MI300X, images=())
    assert "just image vllm-mori" in feasible(registry.variant("vllm-mori-fork"), machine, R1)


def test_cpu_variant_runs_on_a_laptop_without_docker() -> None:
    tiny = msgspec.structs.replace(models.models()["tiny-moe"], path="/weights/tiny")
    assert feasible(registry.variant("vllm-cpu"), LAPTOP, tiny) == ""
    assert feasible(registry.variant("vllm-cpu"), LAPTOP, tiny, "docker") == "no Docker Engine answers"
    assert feasible(registry.variant("vllm-cpu"), MI300X, tiny) == ""


def test_missing_environment_is_named() -> None:
    tiny = msgspec.structs.replace(models.models()["tiny-moe"], path="/weights/tiny")
    bare = msgspec.structs.replace(LAPTOP, environments=())
    assert "vllm-cpu.requirements.txt" in feasible(registry.variant("vllm-cpu"), bare, tiny)


def test_weights_must_be_here() -> None:
    assert "download deepseek-ai/DeepSeek-R1" in feasible(
        registry.variant("vllm-ep"), H200, models.models()["deepseek-r1"]
    )


@pytest.mark.parametrize(
    ("name", "model", "words"),
    [
        ("vllm-mori", Model(alias="dense", path="/w"), "dense has no experts"),
        (
            "sglang-mori",
            Model(
                alias="m", path="/w", moe=MoeFacts(num_experts=60, num_experts_per_tok=4, num_moe_layers=24)
            ),
            "60 experts, which 8 ranks cannot share evenly",
        ),
    ],
)
def test_labels_of_expert_parallelism_need_experts(name: str, model: Model, words: str) -> None:
    assert words in feasible(registry.variant(name), MI300X, model)


def test_probe_of_this_machine() -> None:
    machine = probe()
    assert machine.free_disk_gb > 0
    assert "vllm-cpu" in machine.environments
    assert (machine.accelerator == "cpu") == (not machine.gpus)


def test_a_machine_without_a_docker_engine_has_no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    machine = probe()
    assert machine.docker == "" and machine.images == ()
