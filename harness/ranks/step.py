"""One srun that holds an agent on every node, and what those tell.

Whatever goes wrong on any node ends the step on all of them, within seconds and by name: a rank that ends, a
node that falls silent, one that Slurm drains, srun itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from typing import Any, TypeVar

import msgspec

from harness.errors import LaunchError
from harness.ranks import nodes
from harness.ranks.agent import JOB, MARK, Job
from harness.ranks.lines import GOES_ON
from harness.ranks.look import MEET_S, Look, Met
from harness.registry import ROOT
from harness.schema import Launch, Noun

T = TypeVar("T")
SILENT_S = 8.0
"""Agents say something every second."""
START_S = 60.0
"""From the first node's agent to the last one's: a repository on a slow disk is read meanwhile."""
_FORCED_S = 2.0
_QUEUE_S = 3600.0
_STATES_EVERY_S = 3.0
_GONE = re.compile(r"DRAIN|DOWN|FAIL|NOT_RESPONDING")
_TASK = re.compile(r"srun: error: \S+: task (\d+): (Killed|Terminated|Segm.*|Aborted.*|Exited.*)")
_LABEL = re.compile(rf"(?:(\d+): )?((?:{MARK}|{GOES_ON}).*)")


def srun(job: Job) -> tuple[str, ...]:
    """The command that starts the agents: within an allocation on its nodes, else on nodes of its own."""
    num = len(job.launch.ranks)
    words = ["srun", f"--nodes={num}", f"--ntasks={num}", "--ntasks-per-node=1", "--kill-on-bad-exit=0"]
    words += ["--cpu-bind=none", f"--chdir={ROOT}", "--export=ALL", *(["--label"] if num > 1 else [])]
    own = () if "SLURM_JOB_ID" in os.environ else ("--exclusive", f"--job-name={job.run_id or 'doctor'}")
    here = ("--overlap",) if "SLURM_JOB_ID" in os.environ else own
    return (*words, *here, *shlex.split(job.launch.srun), sys.executable, "-m", "harness.ranks.agent")


class Step:
    """The agents of one launch. Used from one thread; two of its own listen and watch. Raises LaunchError."""

    def __init__(self, job: Job, output: int) -> None:
        self._job, self._output = job, os.fdopen(os.dup(output), "ab", buffering=0)
        self._num = len(job.launch.ranks)
        self._told: dict[tuple[int, str], Any] = {}
        self._heard: dict[int, float] = {}
        self._gone: set[int] = set()
        self._begun: dict[int, str] = {}
        self._lock = threading.Condition()
        self.nodes: tuple[str, ...] = ()
        """Names that Slurm has for them, in the order of ranks; () = not known yet."""
        self.fault = ""
        """What went wrong, in words; "" while nothing did."""
        given = {**os.environ, "PYTHONUNBUFFERED": "1", JOB: msgspec.json.encode(job).decode()}
        pipe = subprocess.PIPE
        try:
            self.process = subprocess.Popen(
                srun(job), env=given, stdin=pipe, stdout=output, stderr=pipe, start_new_session=True
            )
        except OSError as error:
            raise LaunchError(
                f"srun cannot be started ({error.strerror}); run this where Slurm's commands are."
            ) from error
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def ask(self, order: str, kind: str, noun: type[T], within_s: float = _QUEUE_S) -> list[T]:
        """Every node's answer to an order, by rank. Raises LaunchError that names who is missing."""
        self._order(order)
        deadline = time.monotonic() + within_s
        with self._lock:
            while len(found := [r for r in range(self._num) if (r, kind) in self._told]) < self._num:
                if self.fault or self.process.poll() is not None or time.monotonic() > deadline:
                    missing = [self.name(r) for r in range(self._num) if r not in found]
                    why = self.fault or f"no answer to {order.split()[0]!r} from {' and '.join(missing)}"
                    raise LaunchError(f"{self._job.launch.variant}: {why}.", details=self._words())
                self._lock.wait(0.2)
            return [msgspec.convert(self._told.pop((r, kind)), noun) for r in range(self._num)]

    def name(self, rank: int) -> str:
        """A rank in words."""
        node = self.nodes[rank] if rank < len(self.nodes) else ""
        return f"rank {rank}{f' on {node}' if node else ''}"

    def say(self, words: str, rank: int | None = None) -> None:
        """A line of the harness's own in the log, as a rank's where one is given."""
        label = "" if rank is None or self._num == 1 else f"{rank}: "
        with contextlib.suppress(OSError, ValueError):
            self._output.write(f"{label}[harness] {words}\n".encode())

    def stop(self, grace_s: float) -> None:
        """Have all ranks stopped and wait for srun's end; force it after grace_s. Idempotent."""
        with contextlib.suppress(OSError, ValueError):
            if self.process.stdin:
                self.process.stdin.close()
        for force in (self.process.terminate, self.process.kill):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(grace_s)
            if self.process.poll() is None:
                force()
        self.process.wait()
        self._reader.join(_FORCED_S)
        self._output.close()

    def fail(self, words: str) -> None:
        """The first fault counts; the others are its consequences."""
        if not self.fault:
            self.fault = words
            self.say(words)
            self._order("drop")
        with self._lock:
            self._lock.notify_all()

    def _order(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self.process.stdin:
                self.process.stdin.write(line.encode() + b"\n")
                self.process.stdin.flush()

    def _listen(self) -> None:
        for raw in self.process.stderr or ():
            line = raw.decode("utf-8", "replace").rstrip()
            match = _LABEL.fullmatch(line)
            if gone := _TASK.match(line):
                self.fail(f"{self.name(int(gone[1]))} is gone ({gone[2]}), and its agent with it")
            if match is None:
                with contextlib.suppress(OSError, ValueError):
                    self._output.write(raw)
                continue
            rank, text = int(match[1] or 0), match[2]
            whole = self._begun.pop(rank, "") + text.removeprefix(GOES_ON).removeprefix(MARK)
            try:
                self._hear(rank, *json.loads(whole))
            except ValueError:  # it goes on in the next line
                self._begun[rank] = whole
        code = self.process.wait()
        if len(self._gone) < self._num:
            self.fail(f"srun ended with exit code {code} before every rank was stopped")

    def _hear(self, rank: int, kind: str, what: Any) -> None:
        with self._lock:
            self._heard[rank] = time.monotonic()
            self._told[rank, kind] = what
            self._lock.notify_all()
        if kind == "gone":
            self._gone.add(rank)
        if kind == "ended":
            self.fail(f"{self.name(rank)} ended ({what})")

    def _watch(self) -> None:
        looked, began = time.monotonic(), 0.0
        while self.process.poll() is None and not self.fault:
            time.sleep(0.5)
            now = time.monotonic()
            began = began or min(self._heard.values(), default=0.0)
            for rank in range(self._num):
                last = self._heard.get(rank)
                if last is not None and now - last > SILENT_S and rank not in self._gone:
                    self.fail(
                        f"{self.name(rank)} fell silent {now - last:.0f} s ago: its node hangs or is gone"
                    )
                if last is None and began and now - began > START_S:
                    self.fail(f"{self.name(rank)} never started, {START_S:.0f} s after another one had")
            self._wait_for_each_other()
            if self.nodes and now - looked > _STATES_EVERY_S:
                looked = now
                self._look_at_states()

    def _wait_for_each_other(self) -> None:
        """A rank that never joins."""
        told = [idle for rank in range(self._num) if (idle := self._told.get((rank, "idle")))]
        if len(told) == self._num and (away := nodes.absent(told)):
            names = " and ".join(map(self.name, away))
            least = min(seconds for seconds, _ in told)
            self.fail(f"{names} never joined: no rank has computed or read anything for {least:.0f} s")

    def _look_at_states(self) -> None:
        for state, node in states(self.nodes):
            if _GONE.search(state.upper()):
                self.fail(
                    f"Slurm says that {node} is {state}: what it measures from here on counts for nothing"
                )

    def _words(self) -> str:
        return f"--- by hand\n{shlex.join(srun(self._job))}"


class Gathered(Noun):
    """The nodes of a step before a rank is started."""

    looks: tuple[Look, ...]
    met: tuple[Met, ...]
    head: str
    """Address of the first node that the others meet it at."""
    faults: tuple[str, ...]
    """Why they do not go together, in sentences that name a node."""


def gather(step: Step, launch: Launch) -> Gathered:
    """Have every node look at itself, then meet the first. Raises LaunchError when one does not answer."""
    looks = step.ask("look", "look", Look)
    step.nodes = tuple(look.host for look in looks)
    where = address(step.nodes[0])
    head = looks[0].addresses.get(launch.interface, "") if launch.interface else _number(where)
    if not head:
        fault = f"{step.nodes[0]} has no address on {launch.interface or where}"
        return Gathered(looks=tuple(looks), met=(), head="", faults=(fault,))
    met = step.ask(f"meet {head}", "met", Met, MEET_S + SILENT_S)
    return Gathered(looks=tuple(looks), met=tuple(met), head=head, faults=nodes.faults(looks, met))


def _number(name: str) -> str:
    """IPv4 address of a host name; "" when it has none."""
    with contextlib.suppress(OSError):
        return socket.gethostbyname(name)
    return ""


def states(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """(state, node) as Slurm's controller has them; nothing where it does not answer."""
    words = [
        "sinfo",
        "--noheader",
        "--Node",
        f"--nodes={','.join(names)}",
        "--Format=StateComplete:60,NodeList:60",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return [(parts[0], parts[1]) for parts in map(str.split, done.stdout.splitlines()) if len(parts) == 2]


def address(node: str) -> str:
    """Where Slurm itself reaches a node: a name or a number. Its own name where Slurm does not say."""
    done = subprocess.run(["scontrol", "show", "node", node], capture_output=True, text=True, check=False)
    found = re.search(r"NodeAddr=(\S+)", done.stdout)
    return found[1] if found else node
