"""One rank's life: join the process group, check, time, leave."""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from typing import Any

import torch
import torch.distributed as dist

from ep_check import backends, bandwidth, bench, check, oracle, routing, shape
from ep_check.faults import Faulty
from ep_check.seam import Backend, UnavailableError


def run(settings: argparse.Namespace) -> dict[str, Any]:
    """Everything rank 0 publishes. Raises UnavailableError, ValueError (both before any collective)."""
    problem = _shape(settings)
    device = _device(settings.backend)
    _join(settings, device)
    try:
        backend = backends.open_backend(settings.backend, problem, device)
        try:
            return _examine(_faulty(backend, problem, settings.fault), problem, device, settings)
        finally:
            backend.close()
    finally:
        dist.destroy_process_group()


def _examine(
    backend: Backend, problem: shape.Shape, device: torch.device, settings: argparse.Namespace
) -> dict[str, Any]:
    checks: list[dict[str, Any]] = []
    if settings.check_tokens:
        patterns = _patterns(settings.routings)
        checks = check.run(backend, problem, device, patterns, settings.check_tokens)
    failed = any(result["passed"] is False for result in checks)
    timings: list[dict[str, Any]] = []
    for pattern in _patterns(settings.bench_routings) if not failed else ():
        ladder = bench.Ladder(_ladder(settings.tokens), pattern, settings.warmup, settings.iterations)
        timings += bench.run(backend, problem, device, ladder)
    wrong = any(row["identity_error"] > oracle.TOLERANCE for row in timings)
    return {
        "verdict": "red" if failed or wrong else "green",
        "backend": settings.backend,
        "fault": settings.fault,
        "config": {k: v for k, v in vars(settings).items() if k not in ("out", "backend", "fault")},
        "environment": _environment(problem, device),
        "tolerance": oracle.TOLERANCE,
        "formula": bandwidth.FORMULA,
        "checks": checks,
        "timings": timings,
    }


def _shape(settings: argparse.Namespace) -> shape.Shape:
    problem = shape.Shape(
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        hidden=settings.hidden,
        num_experts=settings.experts,
        top_k=settings.top_k,
        max_tokens=max((*_ladder(settings.tokens), settings.check_tokens, 1)),
        seed=settings.seed,
        dispatch_dtype=settings.dispatch_dtype,
        options=_options(settings.option),
        gpus_per_node=int(os.environ.get("LOCAL_WORLD_SIZE", "8")),
    )
    reason = shape.refuse(problem)
    if reason:
        raise ValueError(reason)
    return problem


def _device(name: str) -> torch.device:
    if name not in backends.NAMES:
        raise ValueError(f"unknown backend {name!r}: choose one of {', '.join(backends.NAMES)}")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if name == "torch-gloo":
        return backends.device_of(name, local_rank)
    if not torch.cuda.is_available():
        raise UnavailableError(
            f"{name} needs {backends.HARDWARE[name]} and torch sees no GPU here: use --backend torch-gloo on "
            "this machine"
        )
    if backends.is_wrong_vendor(name, torch.version.hip is not None):
        raise UnavailableError(
            f"{name} needs {backends.HARDWARE[name]}, this machine has {torch.cuda.get_device_name(0)}: use "
            "--backend torch-nccl"
        )
    if local_rank >= torch.cuda.device_count():
        raise UnavailableError(
            f"local rank {local_rank} has no GPU of its own ({torch.cuda.device_count()} here): "
            "lower --nproc-per-node"
        )
    torch.cuda.set_device(local_rank)
    return backends.device_of(name, local_rank)


def _join(settings: argparse.Namespace, device: torch.device) -> None:
    timeout = datetime.timedelta(seconds=settings.timeout_s)
    if device.type == "cpu":
        torch.set_num_threads(1)
        dist.init_process_group("gloo", timeout=timeout)
    else:
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=timeout, device_id=device)


def _faulty(backend: Backend, problem: shape.Shape, fault: str) -> Backend:
    return Faulty(backend, problem, fault) if fault else backend


def _patterns(text: str) -> tuple[str, ...]:
    names = tuple(name for name in text.split(",") if name)
    for name in names:
        if name not in routing.PATTERNS:
            raise ValueError(f"unknown routing {name!r}: choose from {', '.join(routing.PATTERNS)}")
    return names


def _options(pairs: list[str]) -> dict[str, str]:
    split = [pair.partition("=") for pair in pairs]
    for name, equals, _ in split:
        if not equals:
            raise ValueError(f"--option {name} has no value: write NAME=VALUE")
    return {name: value for name, _, value in split}


def _ladder(text: str) -> tuple[int, ...]:
    return tuple(int(count) for count in text.split(",") if count)


def _environment(problem: shape.Shape, device: torch.device) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "world_size": problem.world_size,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "device": "cpu",
        "multicast_off": {k: os.environ.get(k, "") for k in ("NCCL_NVLS_ENABLE", "NVSHMEM_DISABLE_NVLS")},
    }
    if device.type == "cuda":
        facts["device"] = torch.cuda.get_device_name(device)
        facts["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    return facts
