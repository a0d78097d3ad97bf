"""What a run says when something breaks in each of its stages, and what it keeps: docs/RELIABILITY.md.

    python -m benchmarks.faults [engine=mock-slow] [WORD ...]      only the faults whose name holds a WORD

Every fault is done to a whole bench of a real engine, llama.cpp unless another is named, when the bench says
that it is in that stage; what replays is transformers (mock, of the tests' own engine). Linux; disk full and
out of memory need root (a tmpfs, a memory cgroup of version 1), the clock step a C compiler (a library that
moves the wall clock of the bench alone, by LD_PRELOAD). Prints rows of Markdown.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks import caching_server as cache
from harness import store
from harness.client import known_server
from harness.client.known_server import Script
from harness.escape import markdown
from harness.launchers.process import MARK
from harness.registry import ROOT
from harness.schema import Comparison

RUN = f"faults-{os.getpid()}"
STAGES = {
    "start": "starting ",
    "pre-flight": ": pre-flight",
    "warm-up": ": warm-up",
    "timed part": "",
    "replay": "replay 1/",
    "replay through itself": "replay 1/",
    "packing": "packing the records",
}
"""Stage -> what the bench says when it begins; of the timed part nothing: its first record is there."""
WORDS = ("32/80", "concurrency=2", "num_prompts=24", "repeats=1", f"run_id={RUN}")
QUICK = ("8/8", "concurrency=2", "num_prompts=12", "reference=none", "verify=0", f"run_id={RUN}", "timeout=4")
CGROUP = Path("/sys/fs/cgroup/memory") / RUN
CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *now) {
  static int (*own)(clockid_t, struct timespec *);
  if (!own) own = dlsym(RTLD_NEXT, "clock_gettime");
  int said = own(id, now);
  const char *file = getenv("CLOCK_STEPPED");
  if (id == CLOCK_REALTIME && file && !access(file, F_OK)) now->tv_sec += atoi(getenv("CLOCK_STEP"));
  return said;
}
"""


class Bench:
    """One bench in a folder of its own."""

    def __init__(self, folder: Path, words: tuple[str, ...], env: dict[str, str] | None = None) -> None:
        self.folder, self.run = folder, folder / "results" / RUN
        self.said: list[str] = []
        base = {"HARNESS_RESULTS": str(folder / "results"), "HARNESS_LOG": str(folder / "log.md")}
        base["HARNESS_ENGINES"] = str(ROOT / "tests" / "engines")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "harness", *words],
            cwd=ROOT,
            env={**os.environ, **base, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.rstrip())

    def reach(self, stage: str) -> None:
        """Wait until that stage has begun, or the bench has ended."""
        while self.process.poll() is None:
            told = STAGES[stage]
            if any(told in line for line in self.said) if told else any(self._records()):
                return
            time.sleep(0.01)

    def _records(self) -> Iterator[bool]:
        yield from (p.stat().st_size > 0 for p in self.run.glob("*/r1/*/requests.jsonl"))

    def end(self) -> int:
        """Exit status."""
        try:
            status = self.process.wait(900)
        finally:
            self.process.kill()
        self.reader.join(5)
        return status


def _of(process: psutil.Process) -> bool:
    try:
        return process.environ().get(MARK, "").startswith(f"{RUN}/")
    except psutil.Error:
        return False


class Fault(NamedTuple):
    """One line of the table."""

    name: str
    stage: str
    do: Callable[[Bench], None]
    words: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    cached: str = ""
    """The variant that a cache of answers is put before."""
    script: Script | None = None
    """For a server of known faults instead of an engine."""


def killed(bench: Bench) -> None:
    """SIGKILL to every process of the engine."""
    for process in [p for p in psutil.process_iter() if _of(p)]:
        process.kill()


def starved(bench: Bench) -> None:
    """From now on the engine gets no more memory than it has, and it has only begun to load."""
    for process in [p for p in psutil.process_iter() if _of(p)]:
        process.rlimit(psutil.RLIMIT_AS, (process.memory_info().vms, process.memory_info().vms))


def outgrown(bench: Bench) -> None:
    """From now on the kernel's out-of-memory killer allows the engine no page more than it has."""
    CGROUP.mkdir(exist_ok=True)
    (CGROUP / "memory.limit_in_bytes").write_text("4096")
    for process in [p for p in psutil.process_iter() if _of(p)]:
        with suppress(OSError):  # a thread of a moment ago
            (CGROUP / "cgroup.procs").write_text(str(process.pid))


def filled(bench: Bench) -> None:
    """The disk of the results is full to the last byte."""
    with (bench.folder / "filler").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


def stepped(bench: Bench) -> None:
    """The wall clock of the bench jumps."""
    (bench.folder / "stepped").touch()


def stopped(bench: Bench) -> None:
    """The client is stopped for 5 s."""
    bench.process.send_signal(signal.SIGSTOP)
    time.sleep(5)
    bench.process.send_signal(signal.SIGCONT)


def hung(bench: Bench) -> None:
    """The engine is stopped, and not told to go on."""
    for process in [p for p in psutil.process_iter() if _of(p)]:
        process.send_signal(signal.SIGSTOP)


def nothing(bench: Bench) -> None:
    """The server does it."""


def faults(engine: str) -> Iterator[Fault]:
    """All of the table."""
    judge = "mock" if engine.startswith("mock") else "transformers"
    plain, judged = (
        ("bench", engine, *WORDS, "reference=none"),
        ("bench", engine, *WORDS, f"reference={judge}"),
    )
    itself = ("bench", judge, *WORDS, f"reference={judge}")
    for stage in ("start", "pre-flight", "warm-up", "timed part"):
        yield Fault(f"engine killed (SIGKILL), {stage}", stage, killed, plain)
        yield Fault(f"engine out of memory (killed by the kernel), {stage}", stage, outgrown, plain)
    yield Fault("engine out of memory (its own error), start", "start", starved, plain)
    for name, do in (("killed (SIGKILL)", killed), ("out of memory (killed by the kernel)", outgrown)):
        yield Fault(f"reference {name}, replay", "replay", do, judged)
        yield Fault(f"engine {name}, replay through itself", "replay through itself", do, itself)
    for stage in ("start", "pre-flight", "warm-up", "timed part"):
        yield Fault(f"disk full, {stage}", stage, filled, plain)
    for stage in ("replay", "packing"):
        yield Fault(f"disk full, {stage}", stage, filled, judged)
    for step in ("3600", "-3600"):
        env = (("CLOCK_STEP", step),)
        yield Fault(f"wall clock steps by {step} s, timed part", "timed part", stepped, plain, env=env)
    yield Fault("client stopped for 5 s (SIGSTOP), timed part", "timed part", stopped, plain)
    brief = (*plain, "timeout=4")
    yield Fault("engine hangs (SIGSTOP), pre-flight", "pre-flight", hung, brief)
    yield Fault("engine hangs (SIGSTOP), timed part", "timed part", hung, brief)
    yield from servers(engine)


def servers(engine: str) -> Iterator[Fault]:
    """Those that somebody else runs, and that answer as no engine does."""
    yield Fault("server stalls", "timed part", nothing, ("load", *QUICK), script=Script(fault="stall"))
    slow = Script(first_token_s=0.01, token_s=1.0)
    yield Fault("server trickles, a token a second", "timed part", nothing, ("load", *QUICK), script=slow)
    whole = Script(first_token_s=0.0, token_s=0.0, tokens_per_chunk=8)
    yield Fault("server answers at once, whole", "timed part", nothing, ("load", *QUICK), script=whole)
    yield Fault("server answers from a cache", "timed part", nothing, ("load", *QUICK), cached=engine)


@contextmanager
def place(fault: Fault) -> Iterator[Path]:
    """A folder for one bench; a small disk of its own where it is to be filled."""
    with tempfile.TemporaryDirectory() as folder:
        small = fault.do is filled
        if small:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=True)
        try:
            yield Path(folder)
        finally:
            if small:
                subprocess.run(["umount", folder], check=True)


def told(fault: Fault) -> str:
    """Do it, and say in a row of Markdown what came of it."""
    with place(fault) as folder, tempfile.TemporaryDirectory() as outside:
        env = dict(fault.env)
        if fault.do is stepped:
            env |= {"LD_PRELOAD": clock(Path(outside)), "CLOCK_STEPPED": str(folder / "stepped")}
        if fault.script or fault.cached:
            served = known_server.running(fault.script) if fault.script else cache.before(fault.cached)
            with served as url:
                bench = Bench(folder, (fault.words[0], f"url={url}", *fault.words[1:]), env)
                status = bench.end()
        else:
            bench = Bench(folder, fault.words, env)
            bench.reach(fault.stage)
            fault.do(bench)
            status = bench.end()
        left = [p for p in psutil.process_iter() if _of(p)]
        if CGROUP.exists():
            CGROUP.rmdir()
        lived = ", an engine was left" * bool(left)
        cells = (fault.name, f"exit {status}: {words(bench)}", kept(bench) + lived)
    return "| " + " | ".join(markdown(cell, 600) for cell in cells) + " |"


def words(bench: Bench) -> str:
    """The row's own reason, or the error that ended the bench."""
    errors = [line for line in bench.said if line.startswith("error: ")]
    if errors:
        return errors[-1]
    if not (bench.run / "comparison.json").exists():
        return bench.said[-1] if bench.said else "nothing"
    row = store.read(bench.run / "comparison.json", Comparison).rows[0]
    verdict = f", {row.agreement.verdict}" if row.agreement and row.agreement.verdict else ""
    why = row.agreement.reason if row.agreement else ""
    if row.metrics and row.metrics.delivered:
        why = "; ".join(filter(None, (why, "no TTFT and TPOT are shown: answers arrived whole")))
    said = row.reason or (f"INVALID: {row.invalid}" if row.invalid else why)
    return f"{row.status}{verdict}" + f": {said}" * bool(said)


def kept(bench: Bench) -> str:
    """Records, entry, report."""
    try:
        found = [p for p in bench.run.glob("*/r1/*@*") if store.present(p / "requests.jsonl")]
        num = sum(sum(1 for _ in store.records(p)) for p in found)
    except Exception as error:
        return f"records cannot be read: {error}"
    log = bench.folder / "log.md"
    logged = log.exists() and f"Z {RUN}\n" in log.read_text()
    return f"{num} records, {'an' if logged else 'no'} entry in the log"


def clock(folder: Path) -> str:
    """The library that moves a process's wall clock."""
    source, made = folder / "clock.c", folder / "clock.so"
    source.write_text(CLOCK)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", made, source, "-ldl"], check=True)
    return str(made)


def main() -> None:
    """The table."""
    print("| fault, stage | what the run says | what was kept |\n| :-- | :-- | :-- |")
    given = dict(word.split("=") for word in sys.argv[1:] if "=" in word)
    asked = [word for word in sys.argv[1:] if "=" not in word]
    for fault in faults(given.get("engine", "llamacpp")):
        if not asked or any(word in fault.name for word in asked):
            print(told(fault), flush=True)


if __name__ == "__main__":
    main()
