"""`just kernel-bench NAME`: another project's kernel bench, run where it lies, and read."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from harness import launchers, plan, registry
from harness.ep import bench_output, command, torchrun
from harness.errors import InputError, MachineError
from harness.schema import Launch, Machine, Noun, Recipe, Variant

SKIPPED = 3
"""Exit status where it cannot run here; the command is printed all the same."""
_BENCHES = Path(__file__).with_name("kernel_benches.toml")
_IMAGE_LAUNCHER = "docker"
_TIMEOUT_S = 3600.0


class Bench(Noun):
    """One table of kernel_benches.toml."""

    script: str
    """Path in the project's folder."""
    source: str
    roots: tuple[str, ...]
    accelerators: tuple[str, ...]
    args: tuple[str, ...] = ()
    nodes: bool = False

    def argv(self, options: Mapping[str, str]) -> tuple[str, ...]:
        """The script and its arguments: key=value becomes --key value, key=yes a bare --key."""
        words = [self.script, *self.args]
        for key, value in options.items():
            words += [f"--{key.replace('_', '-')}", *(value.split(",") if value != "yes" else ())]
        return tuple(words)


def benches() -> dict[str, Bench]:
    """All benches by name."""
    tables = registry.read_toml(_BENCHES)
    return {name: registry.convert(each, Bench, f"{_BENCHES.name}, {name}") for name, each in tables.items()}


def run(name: str, settings: Mapping[str, str], machine: Machine) -> tuple[str, int]:
    """(text, exit status). Settings: variant= (its image), or python= and source= (this machine); the keys of
    several nodes; out= keeps the output; all others are the bench's own. Raises InputError, MachineError.
    """
    given = dict(settings)
    known = benches()
    if name not in known:
        raise InputError(f"There is no kernel bench {name!r}: choose one of {', '.join(known)}.")
    bench, out = known[name], given.pop("out", "")
    variant, python, source = (given.pop(key, "") for key in ("variant", "python", "source"))
    spread = {key: given.pop(key) for key in torchrun.KEYS if key in given}
    if bool(variant) == bool(python and source):
        raise InputError(
            f"{name} is {bench.script} of {bench.source}: give variant=NAME for an image that holds it, or "
            "python=PATH and source=FOLDER on this machine."
        )
    if spread and not bench.nodes:
        raise InputError(f"{name} runs on one node: leave out {next(iter(spread))}=.")
    if variant:
        return _in_image(bench, registry.variant(variant), given, machine, out)
    where = torchrun.nodes(spread, int(spread.get("nodes", "1"))) if bench.nodes else None
    return _here(bench, (python, Path(source).resolve(), where), given, out)


def in_image(bench: Bench, variant: Variant, options: Mapping[str, str], machine: Machine) -> Launch:
    """The variant's container with the bench in place of the engine. Raises InputError."""
    if bench.nodes:
        raise InputError(
            "Several nodes need the host's network and RDMA devices, which a variant's container has not: "
            "give python= and source= on every node."
        )
    recipe = Recipe(question="", variants=(variant.name,), reference="none", launcher=_IMAGE_LAUNCHER)
    launch = plan.plan(recipe, machine)[0].launch
    return msgspec.structs.replace(launch, argv=("bash", "-c", in_shell(bench, options)), files={})


def in_shell(bench: Bench, options: Mapping[str, str], python: str = "python3") -> str:
    """A script that goes to the first root that has the bench and runs it there."""
    tries = "\n".join(f"[ -f {root}/{bench.script} ] && cd {root} && break" for root in bench.roots)
    return (
        f"for _ in 1; do\n{tries}\n"
        f"echo 'kernel-bench: no {bench.script} under {' '.join(bench.roots)} of this image'; exit 3\ndone\n"
        f'PYTHONPATH="$PWD" exec {python} {shlex.join(bench.argv(options))}'
    )


def by_hand(bench: Bench, place: tuple[str, Path, torchrun.Nodes | None], options: Mapping[str, str]) -> str:
    """The command, one line a node, to type in the project's folder."""
    python, source, where = place
    if where is None:
        return f"cd {source} && PYTHONPATH={source} {shlex.join([python, *bench.argv(options)])}"
    # One process a node: the script starts the node's own ranks and reads WORLD_SIZE as the number of nodes.
    return torchrun.by_hand(where, python, bench.argv(options))


def report(text: str) -> str:
    """A bench's output as a table with published figures beside it. Raises MachineError without a timing."""
    timings = tuple(bench_output.parse(text))
    if not timings:
        tail = "\n".join(text.splitlines()[-20:])
        raise MachineError("The bench printed no timing; its last words are below.", details=tail)
    return "\n".join(command.rows(timings))


def _in_image(
    bench: Bench, variant: Variant, options: Mapping[str, str], machine: Machine, out: str
) -> tuple[str, int]:
    launch = in_image(bench, variant, options, machine)
    launcher = launchers.named(_IMAGE_LAUNCHER)
    shown = launchers.by_hand(launch)
    lacking = _lacking(bench, variant, machine) or launcher.missing(variant, machine)
    if lacking:
        return f"{shown}\nnot run: {lacking}", SKIPPED
    return f"{shown}\n{_kept(contained(launch), out)}", 0


def contained(launch: Launch) -> str:
    """Everything that a container prints until it ends. Raises LaunchError, MachineError."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "bench.log"
        server = launchers.named(launch.launcher).start(launch, log, "kernel-bench")
        deadline = time.monotonic() + _TIMEOUT_S
        try:
            while server.poll() is None and time.monotonic() < deadline:
                time.sleep(1.0)
        finally:
            server.stop(10.0)
        return log.read_text(errors="replace")


def _lacking(bench: Bench, variant: Variant, machine: Machine) -> str:
    if variant.accelerator not in bench.accelerators:
        return f"it needs {' or '.join(bench.accelerators)} GPUs, {variant.name} is for {variant.accelerator}"
    if machine.accelerator != variant.accelerator:
        return f"it needs {variant.accelerator} GPUs, this machine has {len(machine.gpus) or 'none'}"
    return ""


def _here(
    bench: Bench, place: tuple[str, Path, torchrun.Nodes | None], options: Mapping[str, str], out: str
) -> tuple[str, int]:
    python, source, where = place
    shown = by_hand(bench, place, options)
    if not (source / bench.script).is_file():
        raise InputError(f"{source} has no {bench.script}: give the folder of {bench.source}.")
    if where is not None and where.rank is None:
        return f"{shown}\n{command.RAN_ELSEWHERE}", 0
    words = ["-m", "torch.distributed.run", *where.words(where.rank or 0)] if where else []
    environ = {**os.environ, **(where.environ if where else {}), "PYTHONPATH": str(source)}
    try:
        done = subprocess.run(
            [python, *words, *bench.argv(options)],
            cwd=source,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        raise MachineError(f"There is no {python}: give python=PATH of one that holds torch.") from None
    except subprocess.TimeoutExpired:
        raise MachineError(f"The bench took longer than {_TIMEOUT_S:.0f} s and was stopped.") from None
    if where is not None and where.rank:
        return f"{shown}\nnode {where.rank} is done; node 0 prints the result", done.returncode
    return f"{shown}\n{_kept(done.stdout, out)}", done.returncode


def _kept(text: str, out: str) -> str:
    if out:
        Path(out).write_text(text)
    return report(text)
