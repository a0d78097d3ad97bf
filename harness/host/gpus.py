"""What the accelerators of this machine show of themselves, through their makers' own libraries."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from harness.errors import MachineError
from harness.schema import GpuSample

Reader = Callable[[], tuple[GpuSample, ...]]


_DEVICES = (("NVIDIA", "/dev/nvidiactl", "nvidia-ml-py"), ("AMD", "/dev/kfd", "amdsmi"))
"""Maker, the device its driver makes, the package that reads it."""


class Unreadable(NamedTuple):
    """Why the accelerators of this machine cannot be read; "" where there are none."""

    why: str


def reader() -> Reader | None:
    """A function that samples all accelerators, or None on a machine without any that can be read."""
    found = readable()
    return None if isinstance(found, Unreadable) else found


def readable(devices: Sequence[tuple[str, str, str]] = _DEVICES) -> Reader | Unreadable:
    """A function that samples all accelerators, else a sentence on what is missing to read them."""
    causes = []
    for (maker, device, package), attempt in zip(devices, (_nvidia, _amd), strict=True):
        # Without its library amdsmi prints as it is imported, and stdout may be somebody's JSON.
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            try:
                return attempt(device)
            except Exception as error:  # ImportError, OSError, KeyError, or the library's own
                cause = " ".join(printed.getvalue().split()) or f"{type(error).__name__}: {error}"
        if Path(device).exists():
            causes.append(_advice(maker, device, package, cause))
    return Unreadable("; ".join(causes))


@contextlib.contextmanager
def nvml(device: str = _DEVICES[0][1]) -> Iterator[Any]:
    """NVIDIA's management library, open; None on a machine without its driver, which makes `device`.

    Raises MachineError where the driver is here and the package that reads it is not.
    """
    try:
        import pynvml
    except ImportError as error:
        if Path(device).exists():
            raise MachineError(
                "NVIDIA accelerators are here, but nvidia-ml-py is not in .venv: run `just setup`; without a "
                "package index here, `sh scripts/setup.sh nvidia` where .venv is made."
            ) from error
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _advice(maker: str, device: str, package: str, cause: str) -> str:
    from harness.escape import plain

    remedy = {
        "AMD": "install the amdsmi of this ROCm (.venv/bin/pip install /opt/rocm/share/amd_smi), and join "
        "the groups video and render",
        "NVIDIA": "check that nvidia-smi works here; `just setup` installs the package",
    }[maker]
    return (
        f"{maker} accelerators are here ({device}) but {package} cannot read them ({plain(cause, 160)}): "
        f"power, clocks, throttling and energy are missing from the results; {remedy}"
    )


def visible(names: Iterable[str]) -> list[int]:
    """Indices of the accelerators that this process may use, in the machine's order.

    names: each device's UUID by index, "" where unknown. The makers' libraries list every device whatever
    CUDA_VISIBLE_DEVICES and its AMD siblings say; engines do obey them, so the harness counts what they see.
    """
    uuids = list(names)
    for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        chosen = os.environ.get(variable)
        if chosen is not None:
            wanted = [word.strip() for word in chosen.split(",") if word.strip()]
            return [i for i, uuid in enumerate(uuids) if str(i) in wanted or _named(uuid, wanted)]
    return list(range(len(uuids)))


def _named(uuid: str, wanted: list[str]) -> bool:
    """A device may be named by any unambiguous beginning of its UUID."""
    return any(uuid.startswith(word) for word in wanted if not word.isdigit())


def _nvidia(device: str) -> Reader:
    import pynvml

    pynvml.nvmlInit()
    all_handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    indices = visible(str(pynvml.nvmlDeviceGetUUID(handle)) for handle in all_handles)
    handles = [(index, all_handles[index]) for index in indices]
    if not handles:
        raise LookupError("no NVIDIA device")
    return lambda: tuple(_nvidia_sample(pynvml, index, handle) for index, handle in handles)


def _nvidia_sample(nvml: Any, index: int, handle: Any) -> GpuSample:
    """NVML: power in mW (averaged over 1 s by the driver), energy in mJ, memory in bytes."""
    reasons = _maybe(lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)) or 0
    return GpuSample(
        index=index,
        power_w=_scaled(lambda: nvml.nvmlDeviceGetPowerUsage(handle), 1e-3),
        energy_j=_scaled(lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle), 1e-3),
        sm_clock_mhz=_scaled(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
        memory_used_gb=_scaled(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used, 1e-9),
        temperature_c=_scaled(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        utilization=_scaled(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu, 1e-2),
        throttle=nvidia_throttle(int(reasons)),
    )


_NVIDIA_REASONS = (
    (0x4 | 0x80, "power"),  # software power cap, hardware power brake
    (0x20 | 0x40, "thermal"),  # software and hardware thermal slowdown
    (0x8, "hardware"),
)
"""Bits of NVML's clocks-event reasons; idle, application clocks and sync boost are no throttling."""


def nvidia_throttle(reasons: int) -> tuple[str, ...]:
    """Names of the throttle reasons set in NVML's bit mask."""
    return tuple(name for bits, name in _NVIDIA_REASONS if reasons & bits)


def _amd(device: str) -> Reader:
    if not Path(device).exists():
        raise LookupError("no AMD device")
    import amdsmi

    amdsmi.amdsmi_init()
    all_handles = list(amdsmi.amdsmi_get_processor_handles())
    handles = [(index, all_handles[index]) for index in visible([""] * len(all_handles))]
    if not handles:
        raise LookupError("no AMD device")
    # The violation status measures for 0.1 s per device: eight in turn would not keep to 1 Hz.
    pool = ThreadPoolExecutor(max_workers=len(handles), thread_name_prefix="amdsmi")
    return lambda: tuple(pool.map(lambda of: amd_sample(amdsmi, *of), handles))


def amd_sample(smi: Any, index: int, handle: Any) -> GpuSample:
    """AMD SMI 7.0 (6.x where it differs): power in W, energy as counter x resolution in uJ, memory in MB.

    What a device does not have is "N/A", or all bits set.
    """
    power = _maybe(lambda: smi.amdsmi_get_power_info(handle)) or {}
    energy = _maybe(lambda: smi.amdsmi_get_energy_count(handle)) or {}
    violation = _maybe(lambda: smi.amdsmi_get_violation_status(handle)) or {}
    clock = _maybe(lambda: smi.amdsmi_get_clock_info(handle, smi.AmdSmiClkType.GFX)) or {}
    return GpuSample(
        index=index,
        power_w=amd_power(power),
        energy_j=_scaled(lambda: amd_energy(energy), 1e-6),
        sm_clock_mhz=_scaled(lambda: clock["clk"]),
        memory_used_gb=_scaled(lambda: smi.amdsmi_get_gpu_vram_usage(handle)["vram_used"], 1e-3),
        temperature_c=_scaled(
            lambda: smi.amdsmi_get_temp_metric(
                handle, smi.AmdSmiTemperatureType.HOTSPOT, smi.AmdSmiTemperatureMetric.CURRENT
            )
        ),
        utilization=_scaled(lambda: smi.amdsmi_get_gpu_activity(handle)["gfx_activity"], 1e-2),
        throttle=amd_throttle(violation),
    )


def amd_energy(info: dict[str, Any]) -> float:
    """Microjoules since the driver was loaded; old versions call the accumulator power. Raises KeyError."""
    accumulator = info["energy_accumulator"] if "energy_accumulator" in info else info["power"]
    return float(accumulator) * float(info["counter_resolution"])


def amd_power(info: dict[str, Any]) -> float | None:
    """Watts: MI300 shows the current socket power, older parts the average; absent ones are "N/A" or 0."""
    for name in ("current_socket_power", "socket_power", "average_socket_power"):
        value = info.get(name)
        if isinstance(value, int | float) and 0 < value < _ABSENT:
            return float(value)
    return None


_ABSENT = 0xFFFF
"""All bits of a 16-bit figure: the device does not have it."""


def amd_throttle(violation: dict[str, Any]) -> tuple[str, ...]:
    """Names of the active violations."""
    active = {
        "power": ("active_ppt_pwr",),
        "thermal": ("active_socket_thrm", "active_vr_thrm", "active_hbm_thrm"),
        "hardware": ("active_prochot_thrm",),
    }
    return tuple(name for name, keys in active.items() if any(violation.get(key) is True for key in keys))


def _maybe(read: Callable[[], Any]) -> Any:
    """The value, or None where this device or driver does not offer it: each library has its own errors."""
    with contextlib.suppress(Exception):
        return read()
    return None


def _scaled(read: Callable[[], Any], factor: float = 1.0) -> float | None:
    value = _maybe(read)
    return float(value) * factor if isinstance(value, int | float) else None
