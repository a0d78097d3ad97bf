"""An engine on two nodes of a real Slurm, each with its own network, processes and mounts. Needs root.

python -m benchmarks.two_nodes [words]            one bench on them: by default SGLang's CPU engine on two
                                                  nodes beside the same on one
python -m benchmarks.two_nodes faults [VARIANT]   what a user is told of each fault, and after how long;
                                                  names behind it run those alone
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import slurm
from benchmarks.slurm import FABRIC, Apart
from harness import store
from harness.registry import ROOT
from harness.schema import TrialResult

PAIR = ("sglang-cpu-tp2,sglang-cpu-tp2-n2", "100/50", "concurrency=2", "num_prompts=8", "repeats=1")
LOAD = ("32/64", "concurrency=2", "num_prompts=400", "reference=none", f"interface={FABRIC}", "nodes=2")
FAKE_TIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
LEFT, RIGHT = slurm.NODES


class Fault(NamedTuple):
    """One thing that goes wrong."""

    said: str
    """Pattern of what the user must be told."""
    unlike: tuple[str, str] = ("", "")
    """(node, shell commands before its slurmd starts)."""
    words: tuple[str, ...] = ()
    strike: Callable[[Apart], None] | None = None
    """What happens once requests are answered; None = it was so from the beginning."""


def _killed(node: str, *, agent: bool = False) -> Callable[[Apart], None]:
    """SIGKILL for a node's rank, or for the agent that watches over it."""

    def strike(nodes: Apart) -> None:
        for pid in nodes.pids(node):
            with contextlib.suppress(OSError):
                if (AGENT in Path(f"/proc/{pid}/cmdline").read_text()) is agent:
                    os.kill(pid, signal.SIGKILL)

    return strike


def _frozen(nodes: Apart) -> None:
    for pid in nodes.pids(RIGHT):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGSTOP)


def _drained(nodes: Apart) -> None:
    words = ["scontrol", "update", f"nodename={RIGHT}", "state=drain", "reason=checked"]
    subprocess.run(words, env=nodes.env, check=True)


def _cancelled(nodes: Apart) -> None:
    jobs = subprocess.run(["squeue", "-h", "-o", "%i"], env=nodes.env, capture_output=True, text=True)
    subprocess.run(["scancel", *jobs.stdout.split()], env=nodes.env, check=True)


def _other(path: Path, file: str) -> str:
    """Shell commands by which a node sees a folder whose file has one line more."""
    other = f"/dev/shm/{path.name}"
    return f"cp -r {path} {other}; echo >> {other}/{file}; mount --bind {other} {path}"


PACKAGES = (
    *Path(sysconfig.get_path("purelib")).resolve().glob("msgspec-*.dist-info"),
    *(ROOT / ".engines").resolve().glob("sglang-cpu/lib/*/site-packages/sglang-0*.dist-info"),
)
"""What tells an engine's wheels: of the mock, which runs on this very Python, and of SGLang."""
AGENT = "harness.ranks.agent"
LISTEN = f"""{sys.executable} -c "
import socket, time
held = [socket.create_server(('0.0.0.0', port)) for port in range(20000, 22500)]
time.sleep(600)" &
while ! ss -Hltn | grep -q :22499; do sleep 0.1; done"""
UNHEARD = """(while ! pgrep -f 'mock.py [0-9]|--node-rank [1]' >/dev/null; do sleep 0.1; done
iptables -A OUTPUT -p tcp -d 10.78.0.1 -j DROP) &"""
"""The nodes have met; from the moment that an engine's process is there, it does not reach the first one."""
FAULTS = {
    "head dies": Fault("rank 0 on left ended", strike=_killed(LEFT)),
    "worker dies": Fault("rank 1 on right ended", strike=_killed(RIGHT)),
    "agent dies": Fault("rank 1 on right (fell silent|is gone)", strike=_killed(RIGHT, agent=True)),
    "node hangs": Fault("rank 1 on right fell silent", strike=_frozen),
    "job cancelled": Fault("told to stop by somebody else", strike=_cancelled),
    "node drained": Fault("Slurm says that right is", strike=_drained),
    "never joins": Fault("rank 1 on right never joined", (RIGHT, UNHEARD)),
    "other weights": Fault("differ in weights", (RIGHT, _other(ROOT / "models/tiny-moe", "config.json"))),
    "other harness": Fault("differ in this harness", (RIGHT, _other(ROOT / "harness", "cost.py"))),
    "other packages": Fault(
        "differ in Python's packages", (RIGHT, "; ".join(_other(p, "RECORD") for p in PACKAGES))
    ),
    "wrong interface": Fault("left has no address on nosuch0", words=("interface=nosuch0",)),
    "link down": Fault("right does not reach 10.78.0.1", (RIGHT, f"ip link set {FABRIC} down")),
    "port taken": Fault("port 2.... is in use on left", (LEFT, LISTEN)),
    "clock off": Fault(
        r"the clock of right is \+2",
        (RIGHT, f"printf 'export LD_PRELOAD={FAKE_TIME}\\nexport FAKETIME=+2s\\n' > $FOLDER/prolog.{RIGHT}"),
    ),
}


def _records(results: Path) -> int:
    trials = {path.parent for path in results.rglob("requests.jsonl*")}
    return sum(len(list(store.records(trial))) for trial in trials)


def _result(results: Path) -> TrialResult | None:
    found = next(iter(results.rglob("trial.json")), None)
    return store.read(found, TrialResult) if found else None


def fault(name: str, variant: str) -> bool:
    """Whether the user is told of it, and nothing is left. Prints a line."""
    wrong = FAULTS[name]
    with tempfile.TemporaryDirectory() as folder, slurm.apart(dict([wrong.unlike])) as nodes:
        before = {node: len(nodes.pids(node)) for node in slurm.NODES}
        results = Path(folder, "results")
        own = {"HARNESS_RESULTS": str(results), "HARNESS_LOG": f"{folder}/log.md"}
        env = {**nodes.env, **own, "HARNESS_ENGINES": str(ROOT / "tests" / "engines")}
        keys = {word.partition("=")[0] for word in wrong.words}
        words = [*(w for w in LOAD if w.partition("=")[0] not in keys), *wrong.words]
        with Path(folder, "out").open("wb") as out:
            command = [sys.executable, "-m", "harness", "bench", variant, *words]
            bench = subprocess.Popen(command, env=env, cwd=ROOT, stdout=out, stderr=out)
            while wrong.strike and _records(results) < 10 and bench.poll() is None:
                time.sleep(0.1)
            while not wrong.strike and not list(results.rglob("launch.json")) and bench.poll() is None:
                time.sleep(0.1)
            struck, kept = time.monotonic(), _records(results)
            if wrong.strike:
                wrong.strike(nodes)
            while _result(results) is None and bench.poll() is None:
                time.sleep(0.1)
            took_s = time.monotonic() - struck
            bench.wait(60)
        result = _result(results)
        said = result.reason if result else Path(folder, "out").read_text()[-300:]
        left = sum(len(nodes.pids(node)) - before[node] for node in slurm.NODES)
        still = _records(results) >= kept
        held = bool(re.search(wrong.said, said)) and left == 0 and still
        told = f"{name}: {took_s:.1f} s, {left} processes left, {kept} records kept; {said}"
        print(f"{'ok' if held else 'NOT SO'} {told}", flush=True)
    return held


def bench(words: Sequence[str]) -> int:
    """One bench, its link's bytes, and what it left behind."""
    with slurm.apart() as nodes:
        given = list(words) or [*PAIR, f"interface={FABRIC}", "reference=transformers"]
        command = [sys.executable, "-m", "harness", "bench", *given]
        status = subprocess.run(command, env=nodes.env, cwd=ROOT).returncode
        for node in slurm.NODES:
            left = len(nodes.pids(node))
            print(f"{node}: {nodes.sent(node)} bytes sent over {FABRIC}, {left} processes left")
        return status


if __name__ == "__main__":
    if sys.argv[1:2] == ["faults"]:
        variant, *names = sys.argv[2:] or ["mock-pair"]
        sys.exit(not all([fault(name, variant) for name in names or FAULTS]))
    sys.exit(bench(sys.argv[1:]))
