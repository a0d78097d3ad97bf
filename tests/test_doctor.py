"""What `just doctor` says of machines it is told about, and of this one."""

from rich.console import Console

from harness.host import doctor
from harness.host.inspection import GpuUse, Inspection, inspect
from harness.schema import Gpu, Machine

GPUS = tuple(Gpu(index=i, name="H200", memory_gb=139, driver="575.1") for i in range(2))
NODE = Inspection(
    machine=Machine(accelerator="cuda", gpus=GPUS, free_disk_gb=50),
    gpu_use=(
        GpuUse(index=0, used_gb=101.5, processes=("4711 VLLM::EngineCore",)),
        GpuUse(index=1, used_gb=0.5),
    ),
    shm_gb=0.06,
    memlock="65536",
    open_files=1024,
    weights_disk_gb=120,
    busy_ports={8000: "4711 vllm"},
)


def _named(found: Inspection) -> dict[str, doctor.Check]:
    return {check.name: check for check in doctor.checks(found)}


def test_a_node_with_everything_wrong() -> None:
    found = _named(NODE)
    assert found["GPU 0"].detail == "H200, 139 GB, driver 575.1"
    assert found["GPU 0 memory"].detail == "101.5 GB in use by 4711 VLLM::EngineCore"
    assert "GPU 1 memory" not in found
    troubled = {name for name, check in found.items() if check.state in ("warn", "missing")}
    assert troubled == {
        *("GPU 0 memory", "NVIDIA toolkit", "Docker Engine", "disk, weights", "/dev/shm"),
        *("locked memory", "open files", "port 8000", "Hugging Face"),
    }
    assert all(found[name].advice for name in troubled)


def test_amd_node_without_its_device() -> None:
    gpus = (Gpu(index=0, name="MI300X", memory_gb=192),)
    found = _named(Inspection(machine=Machine(accelerator="rocm", gpus=gpus), dri=True))
    assert found["AMD devices"].state == "missing"
    assert found["AMD devices"].detail == "/dev/kfd absent, /dev/dri present"


def test_a_laptop_is_not_told_off_for_its_limits() -> None:
    found = _named(Inspection(machine=Machine(docker="28.0", free_disk_gb=50), shm_gb=0.06, open_files=1024))
    assert found["accelerators"].detail == "none: CPU variants only"
    assert (found["/dev/shm"].state, found["open files"].state, found["disk, weights"].state) == ("ok",) * 3


def test_images_are_listed_with_their_digest() -> None:
    image = "vllm/vllm-openai:v0.32.0"
    found = _named(
        Inspection(machine=Machine(), image_digests={image: "repo@sha256:abc", "other:1": "sha256:d"})
    )
    assert found["image"].detail == f"{image} repo@sha256:abc"


def test_every_variant_gets_a_verdict() -> None:
    verdicts = {v.name: v.detail for v in doctor.verdicts(NODE)}
    assert verdicts["vllm-mori"] == "needs rocm GPUs, this machine has 2 of cuda"
    assert verdicts["vllm-ep"] == "needs 8 GPUs, this machine has 2"


def test_this_machine_is_printed() -> None:
    console = Console(record=True, width=160)
    doctor.run(console)
    text = console.export_text()
    assert "This machine" in text and "Variants" in text and "vllm-mori" in text
    assert inspect().memory_gb > 0
