"""Words of the command line for ep-check and trace."""

from __future__ import annotations

from collections.abc import Sequence

from harness.ep import command, perfetto, torchrun, trace
from harness.ep import kernel_bench as kernel_bench_file
from harness.errors import InputError
from harness.recipe import Words
from harness.schema import Machine


def ep_check(words: Sequence[str]) -> tuple[str, int]:
    """ep-check backend=NAME [ranks=N] [key=value ...], or ep-check FILE... to read benches' output."""
    given = Words(words)
    if given.plain:
        given.nothing_left("ep-check FILE", "none")
        return "\n".join(command.table(name) for name in given.plain), 0
    return command.run(given.pairs)


def kernel_bench(words: Sequence[str], machine: Machine) -> tuple[str, int]:
    """(text, exit status) of kernel-bench NAME variant=NAME|python=PATH source=FOLDER [key=value ...]."""
    given = Words(words)
    if len(given.plain) != 1:
        raise InputError(f"kernel-bench needs one name of {', '.join(kernel_bench_file.benches())}.")
    return kernel_bench_file.run(given.plain[0], given.pairs, machine)


def trace_files(words: Sequence[str]) -> tuple[str, int]:
    """(text, exit status) of trace FILE... [ranks=8] [experts=256] [top_k=8].

    .json and .json.gz files are Perfetto traces, one a rank; else one VLLM_MORI_TRACE log. Raises InputError.
    """
    given = Words(words)
    defaults = {"ranks": "8", "experts": "256", "top_k": "8"}
    setting = [torchrun.number(given.take(name, value), name) for name, value in defaults.items()]
    given.nothing_left("trace", "ranks, experts, top_k")
    perfettos = [name.endswith((".json", ".json.gz")) for name in given.plain]
    if given.plain and all(perfettos):
        return perfetto.run(given.plain), 0
    if len(given.plain) != 1:
        raise InputError(
            "trace needs one log, or the .json traces of several ranks: trace FILE... [ranks=8] "
            "[experts=256] [top_k=8]"
        )
    return trace.run(given.plain[0], *setting)
