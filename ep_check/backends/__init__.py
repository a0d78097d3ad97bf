"""Backends by name."""

from __future__ import annotations

import torch

from ep_check.seam import Backend
from ep_check.shape import Shape

NAMES = ("torch-gloo", "torch-nccl", "mori", "deep_ep", "uccl")
HARDWARE = {
    "torch-nccl": "GPUs that NCCL or RCCL drives",
    "mori": "AMD GPUs (gfx942 or gfx950)",
    "deep_ep": "NVIDIA GPUs",
    "uccl": "NVIDIA GPUs",
}


def is_wrong_vendor(name: str, is_rocm: bool) -> bool:
    """Whether a backend cannot run on GPUs of this kind, whatever is installed."""
    return {"mori": not is_rocm, "deep_ep": is_rocm, "uccl": is_rocm}.get(name, False)


def device_of(name: str, local_rank: int) -> torch.device:
    """Where a backend's tensors live."""
    return torch.device("cpu") if name == "torch-gloo" else torch.device("cuda", local_rank)


def open_backend(name: str, shape: Shape, device: torch.device) -> Backend:
    """Build a backend on an initialised process group; raises UnavailableError, ValueError."""
    if name in ("torch-gloo", "torch-nccl"):
        from ep_check.backends.torch_alltoall import TorchAllToAll

        return TorchAllToAll(shape, device)
    if name == "mori":
        from ep_check.backends.mori_ep import MoriEp

        return MoriEp(shape, device)
    if name == "deep_ep":
        from ep_check.backends.deep_ep_normal import DeepEpNormal

        return DeepEpNormal(shape, device)
    if name == "uccl":
        from ep_check.backends.uccl_ep import UcclEp

        return UcclEp(shape, device)
    raise ValueError(f"unknown backend {name!r}: choose one of {', '.join(NAMES)}")
