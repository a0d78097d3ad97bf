"""`just ep-check backend=...`: checks the configuration, starts torchrun, adds published figures."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ep_check import rules
from ep_check.__main__ import PRESETS
from harness.ep import bench_output, reference_tables
from harness.errors import InputError, MachineError
from harness.schema import KernelTiming

BACKENDS = ("torch-gloo", "torch-nccl", "mori", "deep_ep", "uccl")
MORI_OPTIONS = ("kernel", "priority", "zero_copy", "split", "call_reset", *rules.OVERRIDES)
"""Settings only MORI has; they reach its backend as --option NAME=VALUE."""
_ROOT = Path(__file__).resolve().parents[2]
_TIMEOUT_S = 1800.0
_FLAGS = ("preset", "hidden", "experts", "top_k", "tokens", "check_tokens", "routings", "bench_routings",
          "dispatch_dtype", "iterations", "warmup", "seed", "fault", "out")  # fmt: skip


def run(settings: Mapping[str, str], python: str = "") -> tuple[str, int]:
    """(text, exit status) of one ep-check. Settings: backend=, ranks=, python=, and ep_check's own flags.

    Raises InputError for settings that are not understood or break a rule, MachineError without torch.
    """
    given = dict(settings)
    backend = given.pop("backend", "torch-gloo")
    ranks = number(given.pop("ranks", "8"), "ranks")
    python = given.pop("python", "") or python or _interpreter()
    if backend not in BACKENDS:
        raise InputError(f"Unknown backend {backend!r}: choose one of {', '.join(BACKENDS)}.")
    notes = _mori_rules(given, ranks, os.environ) if backend == "mori" else ()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(given.pop("out", "") or Path(folder) / "result.json").resolve()
        argv = command(python, backend, ranks, {**given, "out": str(out)})
        output, status = _launch(argv)
        result = _decode(out)
    # torchrun reports any failed rank as 1.
    return "\n".join((*notes, as_text(result, output))), {"green": 0, "red": 1, "skipped": 3}.get(
        result.get("verdict", ""), status
    )


def command(python: str, backend: str, ranks: int, settings: Mapping[str, str]) -> list[str]:
    """The torchrun command line. Raises InputError for a setting ep_check does not have."""
    options = MORI_OPTIONS if backend == "mori" else ()
    unknown = sorted(set(settings) - set(_FLAGS) - set(options))
    if unknown:
        raise InputError(
            f"ep-check has no setting {unknown[0]!r}: choose from backend, ranks, "
            f"{', '.join((*_FLAGS, *options))}."
        )
    argv = [python, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks), "-m", "ep_check"]
    argv += ["--backend", backend]
    if "preset" not in settings and backend == "torch-gloo":
        argv += ["--preset", "small"]
    for name, value in settings.items():
        argv += [f"--option={name}={value}"] if name in options else [f"--{name.replace('_', '-')}={value}"]
    return argv


def mori_config(settings: Mapping[str, str], ranks: int, environ: Mapping[str, str]) -> rules.EpConfig:
    """The MORI configuration these settings amount to, for the rules."""
    preset = PRESETS.get(settings.get("preset", "full"), PRESETS["full"])
    sizes = {k: str(settings.get(k, preset[k])) for k in ("tokens", "hidden", "experts", "top_k")}
    tokens = [number(part, "tokens") for part in sizes["tokens"].split(",") if part]
    fp8 = settings.get("dispatch_dtype") == "fp8"
    hidden = number(sizes["hidden"], "hidden")
    return rules.EpConfig(
        world_size=ranks,
        gpus_per_node=ranks,
        hidden=hidden,
        num_experts=number(sizes["experts"], "experts"),
        top_k=number(sizes["top_k"], "top_k"),
        max_tokens_per_rank=max(tokens, default=1),
        scale_dim=hidden // 128 if fp8 else 0,
        kernel=settings.get("kernel") or rules.choose_kernel(1, settings.get("priority", "throughput")),
        heap=environ.get("MORI_SHMEM_HEAP_SIZE", "") or rules.OURS,
    )


def _mori_rules(settings: Mapping[str, str], ranks: int, environ: Mapping[str, str]) -> tuple[str, ...]:
    """What holds of a configuration that obeys every rule, in words. Raises InputError for a broken rule."""
    config = mori_config(settings, ranks, environ)
    rules.require(config)
    mode = environ.get(rules.MODE, "MANUAL")
    ignored = rules.launch_warning(
        mode, {k: number(settings[k], k) for k in rules.OVERRIDES if k in settings}
    )
    if ignored:
        raise InputError(f"{ignored}.")
    heap = environ.get("MORI_SHMEM_HEAP_SIZE") or f"{config.suggested_heap_gib}G"
    launch = ", ".join(f"{k}={v}" for k, v in rules.launch_parameters(config.kernel).items())
    return (
        f"mori: {config.kernel}, at most {config.max_tokens_per_rank} tokens sent and "
        f"{config.max_recv_tokens} received per rank; heap {heap} (estimate "
        f"{rules.heap_bytes(config) / (1 << 30):.1f} GiB); launch parameters {mode}: {launch}",
    )


def as_text(result: dict[str, Any], output: str) -> str:
    """What ep_check printed, and published figures for the same kernel, tokens and ranks."""
    shown = [line for line in output.splitlines() if _ours(line)]
    timings = tuple(bench_output.ep_check(result)) if result.get("timings") else ()
    references = list(dict.fromkeys(row for timing in timings for row in reference_tables.nearest(timing)))
    about = "published"
    if timings and not references:
        ranks, references = timings[0].world_size, reference_tables.smallest_group(timings)
        about = f"none published for {ranks} ranks; for {references[0].world_size}" if references else about
    lines = ["\n".join(shown).strip()]
    if references:
        lines += [
            "",
            f"{about}, FP8 dispatch and BF16 combine, by MORI's convention:",
            *map(_reference, references),
        ]
        lines += [f"note: {words}" for words in reference_tables.MISQUOTES[:2]]
    return "\n".join(lines)


def table(file: str) -> str:
    """A bench's output file as a table, with published figures below each line that has any."""
    lines = [f"{file}:"]
    for timing in bench_output.read(Path(file)):
        lines += [_timing(timing), *(_reference(row) for row in reference_tables.nearest(timing))]
    return "\n".join(lines)


def _timing(timing: KernelTiming) -> str:
    latency = f"{timing.latency_us:.1f} us" if timing.latency_us is not None else "-"
    gbps = f"{timing.gbps:.2f} GB/s" if timing.gbps is not None else "-"
    rdma = f", RDMA {timing.rdma_gbps:.2f} GB/s" if timing.rdma_gbps is not None else ""
    return (
        f"EP{timing.world_size:<3}{timing.tokens:>8} tokens {timing.kernel:<9}{latency:>12}{gbps:>14}{rdma}  "
        f"{timing.source} {timing.dtype} {timing.note}".rstrip()
    )


def number(text: str, name: str) -> int:
    """A positive whole number. Raises InputError."""
    if not str(text).isdigit() or int(text) < 1:
        raise InputError(f"{name}={text!r} is no positive whole number.")
    return int(text)


def _reference(row: KernelTiming) -> str:
    latency = f"{row.latency_us:.0f} us" if row.latency_us else "-"
    rdma = f" (RDMA {row.rdma_gbps:.0f})" if row.rdma_gbps else ""
    return (
        f"  EP{row.world_size:<3}{row.tokens:>6} tokens {row.kernel:<9}{latency:>8}{row.gbps:>7.0f} GB/s"
        f"{rdma}  {row.dtype}; {row.note}"
    )


def _ours(line: str) -> bool:
    noise = ("*****", "Setting OMP_NUM_THREADS", "W1", "E1", "traceback :", "error_file:", "[W", "[rank")
    return bool(line.strip()) and not line.startswith(noise)


def _launch(argv: Sequence[str]) -> tuple[str, int]:
    environ = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    try:
        done = subprocess.run(
            argv, cwd=_ROOT, env=environ, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise MachineError(
            f"There is no {argv[0]}: give python=PATH of an environment that holds torch."
        ) from None
    except subprocess.TimeoutExpired:
        raise MachineError(
            f"ep-check took longer than {_TIMEOUT_S:.0f} s and was stopped: use fewer tokens."
        ) from None
    if "No module named 'torch'" in done.stderr or "No module named torch" in done.stderr:
        raise MachineError(f"{argv[0]} has no torch: give python=PATH of an engine's environment.")
    if not done.stdout.strip():
        raise MachineError(
            f"ep-check ended with {done.returncode} and printed nothing.", details=done.stderr[-2000:]
        )
    return done.stdout, done.returncode


def _decode(out: Path) -> dict[str, Any]:
    if not out.is_file():
        return {}
    result = msgspec.json.decode(out.read_bytes())
    return result if isinstance(result, dict) else {}


def _interpreter() -> str:
    for environment in ("vllm-cpu", "transformers", "sglang-cpu"):
        python = _ROOT / ".engines" / environment / "bin" / "python"
        if python.exists():
            return str(python)
    return "python3"
