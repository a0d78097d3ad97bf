"""What `just doctor` says of accelerators' memory: names as their makers' published sources have them."""

from __future__ import annotations

from pathlib import Path

from harness.host import ecc
from harness.host.doctor import checks
from harness.host.ecc import Ecc
from harness.host.inspection import Inspection
from harness.schema import Gpu, Machine


class Nvml:
    """Names and values of nvidia-ml-py 13.615.71, pynvml.py; its nvmlDeviceGetEccMode ends with

    `return [c_currState.value, c_pendingState.value]`, and a device without ECC raises NVMLError.
    """

    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0

    class NVMLError(Exception):
        """NVML_ERROR_NOT_SUPPORTED."""

    def __init__(self, *devices: tuple[list[int], int] | None) -> None:
        self.devices = devices

    def nvmlDeviceGetCount(self) -> int:
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> tuple[list[int], int] | None:
        return self.devices[index]

    def nvmlDeviceGetEccMode(self, handle: tuple[list[int], int] | None) -> list[int]:
        if handle is None:
            raise self.NVMLError
        return handle[0]

    def nvmlDeviceGetTotalEccErrors(self, handle: tuple[list[int], int], kind: int, since: int) -> int:
        assert (kind, since) == (1, 0)
        return handle[1]


def test_nvml_is_asked_for_the_mode_of_now_and_for_errors_since_the_driver_was_loaded() -> None:
    assert list(ecc.nvidia(Nvml(([1, 1], 0), ([0, 1], 0), ([1, 0], 2), None))) == [
        Ecc(index=0, enabled=True, uncorrected=0),
        Ecc(index=1, enabled=False),
        Ecc(index=2, enabled=True, uncorrected=2),
        Ecc(index=3),
    ]


def test_amd_cards_are_read_from_the_files_that_amd_smi_reads(tmp_path: Path) -> None:
    """ROCm/amdsmi, src/amd_smi/amd_smi_utils.cc, commit 0339e088, smi_amdgpu_get_ecc_error_count.

    It reads the first line of /sys/class/drm/<card>/device/ras/umc_err_count as uncorrectable. Linux,
    drivers/gpu/drm/amd/amdgpu/amdgpu_ras.c: sysfs_emit(buf, "feature mask: 0x%x\\n", con->features), and the
    counts are named "ue" and "ce" there.
    """
    for card, features, counts in (
        ("card0", "feature mask: 0x1abf877\n", "ue: 0\nce: 3\n"),
        ("card1", "feature mask: 0x1abf877\n", "ue: 5\nce: 3\nde: 0\n"),
        ("card2", "feature mask: 0x2\n", ""),
        ("card3", "", ""),
    ):
        folder = tmp_path / "sys/class/drm" / card / "device"
        (folder / "ras").mkdir(parents=True)
        (folder / "mem_info_vram_used").write_text("1000\n")
        for name, text in (("features", features), ("umc_err_count", counts)):
            if text:
                (folder / "ras" / name).write_text(text)
    found = ecc.look("rocm", tmp_path)
    assert found == (
        Ecc(index=0, enabled=True, uncorrected=0),
        Ecc(index=1, enabled=True, uncorrected=5),
        Ecc(index=2, enabled=False),
        Ecc(index=3),
    )
    said = {check.name: check for check in ecc.checks(found, "rocm")}
    assert said["ECC memory"].detail == "off on GPU 2; the driver does not say for GPU 3"
    assert "ras_enable=1" in said["ECC memory"].advice
    assert said["GPU 1 memory errors"].detail.startswith("5 not corrected")
    assert "GPU 0 memory errors" not in said


def test_doctor_tells_a_node_whose_memory_is_corrected_in_one_line() -> None:
    gpus = tuple(Gpu(index=i, name="H200", memory_gb=139) for i in range(8))
    every = tuple(Ecc(index=i, enabled=True, uncorrected=0) for i in range(8))
    found = Inspection(machine=Machine(accelerator="cuda", gpus=gpus), ecc=every)
    lines = [check for check in checks(found) if "ECC" in check.name or "errors" in check.name]
    assert [(line.state, line.detail) for line in lines] == [("ok", "on, 8 of 8 GPUs")]
    assert not [check for check in checks(Inspection(machine=Machine())) if "ECC" in check.name]
