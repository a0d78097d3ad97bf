"""`just ep-check backend=...`: checks the configuration, starts torchrun, adds published figures."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ep_check import heap, mori_config, rules
from ep_check.__main__ import PRESETS
from harness.ep import bench_output, reference_tables, torchrun
from harness.ep.timing import KernelTiming
from harness.errors import InputError

BACKENDS = ("torch-gloo", "torch-nccl", "mori", "deep_ep", "uccl", "fused-moe")
"""The last is one process: an expert kernel under an expert mask, no dispatch."""
_KERNEL_FLAGS = ("kernel", "fault", "experts", "top_k", "hidden", "inter", "tokens", "ranks", "seed", "out")
_FLAGS = ("preset", "hidden", "experts", "top_k", "tokens", "check_tokens", "routings", "bench_routings",
          "dispatch_dtype", "iterations", "warmup", "seed", "fault", "timeout_s", "out")  # fmt: skip
RAN_ELSEWHERE = "give node_rank=0 ... here and on the other nodes to run it"


def run(settings: Mapping[str, str], python: str = "") -> tuple[str, int]:
    """(text, exit status) of one ep-check.

    Settings: backend=, ranks= of all nodes, python=, the keys of several nodes (torchrun.KEYS) and ep_check's
    own flags. Without node_rank= several nodes' commands are only shown.

    Raises InputError for settings that are not understood or break a rule, MachineError without torch.
    """
    given = dict(settings)
    backend = given.pop("backend", "torch-gloo")
    if backend == "fused-moe":
        return _fused_moe(given, given.pop("python", "") or python or torchrun.interpreter())
    ranks = torchrun.number(given.pop("ranks", "8"), "ranks")
    python = given.pop("python", "") or python or torchrun.interpreter()
    if backend not in BACKENDS:
        raise InputError(f"Unknown backend {backend!r}: choose one of {', '.join(BACKENDS)}.")
    where = torchrun.nodes({key: given.pop(key) for key in torchrun.KEYS if key in given}, ranks)
    program(backend, given)  # unknown keys are refused before rules speak of known ones
    notes = _mori_rules(given, where, os.environ) if backend == "mori" else ()
    if where.rank is None:
        return "\n".join((*notes, torchrun.by_hand(where, python, program(backend, given)), RAN_ELSEWHERE)), 0
    with tempfile.TemporaryDirectory() as folder:
        out = Path(given.pop("out", "") or Path(folder) / "result.json").resolve()
        output, status = torchrun.run(where, python, program(backend, {**given, "out": str(out)}))
        result = _decode(out) if where.rank == 0 else {}
    # torchrun reports any failed rank as 1.
    return "\n".join((*notes, as_text(result, output))), {"green": 0, "red": 1, "skipped": 3}.get(
        result.get("verdict", ""), status
    )


def _fused_moe(settings: Mapping[str, str], python: str) -> tuple[str, int]:
    unknown = sorted(set(settings) - set(_KERNEL_FLAGS))
    if unknown:
        raise InputError(f"fused-moe has no setting {unknown[0]!r}: choose from {', '.join(_KERNEL_FLAGS)}.")
    words = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    text, status = torchrun.alone([python, "-m", "ep_check.fused_moe", *words], {})
    return text.rstrip(), status


def program(backend: str, settings: Mapping[str, str]) -> list[str]:
    """What torchrun starts. Raises InputError for a setting ep_check does not have."""
    options = mori_config.OPTIONS if backend == "mori" else ()
    unknown = sorted(set(settings) - set(_FLAGS) - set(options))
    if unknown:
        known = ("backend", "ranks", "python", *torchrun.KEYS, *_FLAGS, *options)
        raise InputError(f"ep-check has no setting {unknown[0]!r}: choose from {', '.join(known)}.")
    argv = ["-m", "ep_check", "--backend", backend]
    if "preset" not in settings and backend == "torch-gloo":
        argv += ["--preset", "small"]
    for name, value in settings.items():
        argv += [f"--option={name}={value}"] if name in options else [f"--{name.replace('_', '-')}={value}"]
    return argv


def mori_sizes(settings: Mapping[str, str], where: torchrun.Nodes) -> mori_config.EpConfig:
    """The sizes of a MORI group that these settings amount to, without MORI's own options."""
    preset = PRESETS.get(settings.get("preset", "full"), PRESETS["full"])
    sizes = {k: str(settings.get(k, preset[k])) for k in ("tokens", "hidden", "experts", "top_k")}
    tokens = [torchrun.number(part, "tokens") for part in sizes["tokens"].split(",") if part]
    checked = settings.get("check_tokens", "64")
    dtype = settings.get("dispatch_dtype", "bf16")
    hidden = torchrun.number(sizes["hidden"], "hidden")
    return mori_config.EpConfig(
        world_size=where.ranks,
        gpus_per_node=where.per_node,
        hidden=hidden,
        num_experts=torchrun.number(sizes["experts"], "experts"),
        top_k=torchrun.number(sizes["top_k"], "top_k"),
        max_tokens_per_rank=max((*tokens, int(checked) if checked.isdigit() else 0, 1)),
        dispatch_dtype=dtype,
        scale_dim=hidden // 128 if dtype == "fp8" else 0,
    )


def _mori_rules(
    settings: Mapping[str, str], where: torchrun.Nodes, environ: Mapping[str, str]
) -> tuple[str, ...]:
    """What holds of a configuration that obeys every rule, in words. Raises InputError for a broken rule."""
    mode = environ.get(rules.MODE, "MANUAL")
    try:
        config = mori_config.configured(settings, environ, mori_sizes(settings, where))
        given = mori_config.overrides(settings)
        broken = (*rules.violations(config), *filter(None, [rules.launch_refusal(mode, config, given)]))
    except ValueError as reason:
        broken = (str(reason),)
    if broken:
        raise InputError(f"{broken[0]}.", details="\n".join(broken[1:]))
    size = environ.get("MORI_SHMEM_HEAP_SIZE") or f"{heap.suggested_gib(config)}G"
    launch = ", ".join(f"{k}={v}" for k, v in {**rules.launch_parameters(config.kernel), **given}.items())
    return (
        f"mori: {config.kernel} on {config.num_nodes} node{'s' * (config.num_nodes > 1)} of "
        f"{config.gpus_per_node}, at most {config.max_tokens_per_rank} tokens sent and "
        f"{config.max_recv_tokens} received per rank; heap {size} (MORI allocates "
        f"{heap.need(config) / (1 << 30):.1f} GiB); launch parameters {mode}: {launch}",
        *(f"note: {words}" for words in rules.notes(config, environ.get("MORI_NUM_QP_PER_PE", ""))),
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
    """A bench's output file as a table, with published figures of equal size below."""
    return "\n".join([f"{file}:", *rows(bench_output.read(Path(file)))])


def rows(timings: Sequence[KernelTiming]) -> list[str]:
    """One line a timing, then the published figures of equal size, each once."""
    references = dict.fromkeys(row for timing in timings for row in reference_tables.nearest(timing))
    about = ["published for these sizes, by MORI's convention:"] if references else []
    return [*map(_timing, timings), *about, *map(_reference, references)]


def _timing(timing: KernelTiming) -> str:
    latency = f"{timing.latency_us:.1f} us" if timing.latency_us is not None else "-"
    gbps = f"{timing.gbps:.2f} GB/s" if timing.gbps is not None else "-"
    rdma = f", RDMA {timing.rdma_gbps:.2f} GB/s" if timing.rdma_gbps is not None else ""
    return (
        f"EP{timing.world_size:<3}{timing.tokens:>8} tokens {timing.kernel:<9}{latency:>12}{gbps:>14}{rdma}  "
        f"{timing.source} {timing.dtype} {timing.note}".rstrip()
    )


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


def _decode(out: Path) -> dict[str, Any]:
    if not out.is_file():
        return {}
    result = msgspec.json.decode(out.read_bytes())
    return result if isinstance(result, dict) else {}
