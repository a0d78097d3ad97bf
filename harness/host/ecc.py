"""Whether the accelerators' memory corrects its errors, and how many it could not correct."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from harness.host import gpus
from harness.host.check import Check
from harness.schema import Accelerator, Noun

_UMC = 0x1
"""Bit of amdgpu's feature mask: the memory controller (AMDGPU_RAS_BLOCK__UMC)."""
_FEATURES = re.compile(r"feature mask: (0x[0-9a-fA-F]+)")
_UNCORRECTED = re.compile(r"^ue: (\d+)", re.MULTILINE)


class Ecc(Noun):
    """Error correction of one accelerator's memory."""

    index: int
    enabled: bool | None = None
    """None = its driver does not say."""
    uncorrected: int | None = None
    """Errors that were found and not corrected since the driver was loaded."""


def look(accelerator: Accelerator, root: Path = Path("/")) -> tuple[Ecc, ...]:
    """What NVML says of NVIDIA's, what amdgpu's files say of AMD's; () of a machine without any."""
    if accelerator == "rocm":
        return tuple(amd(root))
    if accelerator != "cuda":
        return ()
    with gpus.nvml() as nvml:
        return tuple(nvidia(nvml)) if nvml else ()


def nvidia(nvml: Any) -> Iterator[Ecc]:
    """NVML as nvidia-ml-py has it; a mode is (now, after the next reset).

    nvidia-smi shows the same as ecc.mode.current and ecc.errors.uncorrected.volatile.total.
    """
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        try:
            enabled = bool(nvml.nvmlDeviceGetEccMode(handle)[0])
            kind, since_load = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
            uncorrected = nvml.nvmlDeviceGetTotalEccErrors(handle, kind, since_load) if enabled else None
        except nvml.NVMLError:
            yield Ecc(index=index)
        else:
            yield Ecc(index=index, enabled=enabled, uncorrected=uncorrected)


def amd(root: Path) -> Iterator[Ecc]:
    """amdgpu's own files, which amd-smi reads too: ras/features and ras/umc_err_count of each card."""
    cards = root.glob("sys/class/drm/card[0-9]*/device/mem_info_vram_used")
    for index, card in enumerate(sorted(path.parent for path in cards)):
        features = _FEATURES.search(_text(card / "ras/features"))
        uncorrected = _UNCORRECTED.search(_text(card / "ras/umc_err_count"))
        yield Ecc(
            index=index,
            enabled=bool(int(features[1], 16) & _UMC) if features else None,
            uncorrected=int(uncorrected[1]) if uncorrected else None,
        )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def checks(found: Iterable[Ecc], accelerator: Accelerator) -> Iterator[Check]:
    """One line for all, and one for each accelerator that has met errors."""
    every = tuple(found)
    if not every:
        return
    off = [one.index for one in every if one.enabled is False]
    silent = [one.index for one in every if one.enabled is None]
    told = f"off on GPU {_listed(off)}" if off else f"on, {len(every) - len(silent)} of {len(every)} GPUs"
    how = "nvidia-smi -e 1 and a reset" if accelerator == "cuda" else "amdgpu's module option ras_enable=1"
    yield Check(
        name="ECC memory",
        state="warn" if off else "info" if silent else "ok",
        detail=told + (f"; the driver does not say for GPU {_listed(silent)}" if silent else ""),
        advice=f"a flipped bit is a wrong token that nobody sees, and MLPerf asks for it: {how}",
    )
    for one in every:
        if one.uncorrected:
            yield Check(
                name=f"GPU {one.index} memory errors",
                state="warn",
                detail=f"{one.uncorrected} not corrected since the driver was loaded",
                advice="outputs of this GPU may be wrong: reset it, and replace it when they come again",
            )


def _listed(indices: Iterable[int]) -> str:
    return ", ".join(map(str, indices))
