"""What srun starts on every node: it looks, meets the others, runs its rank, and lets go when told to.

Orders come on standard input, a line each; its end is the order to stop: whoever gave orders is gone. The
engine's output goes to standard output; what this program tells goes to standard error, a line of JSON
[KIND, WHAT] behind MARK.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil

from harness import launchers
from harness.errors import HarnessError
from harness.label.dialect import meeting_port
from harness.launchers import Server
from harness.launchers.process import MARK as OURS
from harness.ranks import look
from harness.ranks.lines import cut
from harness.ranks.plans import meeting_on
from harness.schema import Launch, Noun
from harness.secrets import is_secret

JOB = "SERVING_HARNESS_JOB"
MARK = "@harness "
BEAT_S = 1.0
LOOK_EVERY_S = 1.0
_COMPUTES = 0.05
"""Share of a core that no process needs which only waits."""
_READS = 1 << 20
"""Bytes a look that no process reads which only waits."""
_STEP_S = 0.2
_AT_ONCE_S = 1.0


class Job(Noun):
    """What all agents of a step are given."""

    launch: Launch
    run_id: str = ""
    inner: str = "process"
    """The launcher that starts a rank on its node."""


class Shown(Noun):
    """A rank that runs, as its node shows it."""

    cmdline: tuple[str, ...] = ()
    environ: dict[str, str] = msgspec.field(default_factory=dict)
    sent: dict[str, int] = msgspec.field(default_factory=dict)
    """Interface -> bytes sent since the rank was started."""
    joined: bool = False
    """Whether it holds a connection with the first node (the first: with any other)."""


class Idle(NamedTuple):
    """A rank on its way."""

    seconds: float
    """Since its processes last computed or read."""
    joined: bool


class Work(NamedTuple):
    """What a rank's processes have done since they began."""

    cpu_s: float = 0.0
    read_bytes: int = 0
    awaits_disk: bool = False


def work(pid: int | None) -> Work | None:
    """Of a process and all below it; None where it cannot be seen, as in another container's namespace."""
    if not pid:
        return None
    cpu_s, read, awaits = 0.0, 0, False
    with contextlib.suppress(psutil.Error):
        first = psutil.Process(pid)
        for process in (first, *first.children(recursive=True)):
            cpu_s += sum(process.cpu_times()[:2])
            awaits |= process.status() == psutil.STATUS_DISK_SLEEP
            with contextlib.suppress(psutil.AccessDenied):
                read += process.io_counters().read_chars
        return Work(cpu_s, read, awaits)
    return None


def tell(kind: str, what: object = "") -> None:
    """One write, so that lines of threads stay whole."""
    line = f"{MARK}{json.dumps([kind, msgspec.to_builtins(what)])}".encode()
    os.write(2, b"\n".join([*cut(line), b""]))


def output() -> Path:
    """Where a rank writes: its lines go on to standard output, long ones in pieces."""
    reader, writer = os.pipe()

    def copy() -> None:
        with os.fdopen(reader, "rb") as lines:
            for line in lines:
                os.write(1, b"\n".join([*cut(line.rstrip(b"\r\n")), b""]))

    threading.Thread(target=copy, daemon=True).start()
    return Path(f"/dev/fd/{writer}")


class Agent:
    """One node's side of a step."""

    def __init__(self, job: Job, number: int) -> None:
        self.job, self.number = job, number
        self.launch = job.launch
        self.server: Server | None = None
        self.grace_s = _AT_ONCE_S
        """How long a rank is given to end: little, once another has failed."""
        self.settled = False
        """Once the engine has answered, nobody asks any more whether it will."""
        self._work, self._worked_at = Work(), time.monotonic()
        self._sent_before: dict[str, int] = {}
        self._head = ""

    def obey(self, order: str) -> None:
        """look, meet ADDRESS, start ADDRESS, show. Raises HarnessError."""
        word, _, address = order.partition(" ")
        if word == "look":
            tell("look", look.look(self.launch, self.job.inner))
        elif word == "meet":
            others = len(self.launch.others)
            port = meeting_port(self.launch.port)
            tell("met", look.meet(self.number, others, address, port) if others else look.Met())
        elif word == "start":
            self._head, self._sent_before = address, look.sent()
            own = meeting_on(self.launch.of_rank(self.number, address))
            launcher = launchers.named(self.job.inner)
            self.server = launcher.start(own, output(), f"{self.job.run_id}-{self.number}")
            tell("started", os.environ.get("SLURMD_NODENAME", ""))
        elif word == "show" and self.server is not None:
            self.settled = True
            tell("shown", self._shown(self.server))

    def idle(self, server: Server) -> Idle:
        """How long its rank has done nothing: one that waits for another one sleeps. Unseen, it works."""
        now, done, before = time.monotonic(), work(getattr(server, "pid", None)), self._work
        if (
            done is None
            or done.awaits_disk
            or abs(done.cpu_s - before.cpu_s) > _COMPUTES * LOOK_EVERY_S
            or abs(done.read_bytes - before.read_bytes) > _READS
        ):
            self._work, self._worked_at = done or before, now
        return Idle(now - self._worked_at, self._joined())

    def _joined(self) -> bool:
        """Whether a connection with the first node is open (on that one: with any other)."""
        peers = {c.raddr.ip for c in psutil.net_connections("tcp") if c.status == "ESTABLISHED" and c.raddr}
        own = {a.address for all_of in psutil.net_if_addrs().values() for a in all_of}
        return self._head in peers if self.number else bool(peers - own)

    def _shown(self, server: Server) -> Shown:
        cmdline, environ = server.process_evidence()
        sent = {name: num - self._sent_before.get(name, 0) for name, num in look.sent().items()}
        public = {name: value for name, value in environ.items() if not is_secret(name)}
        return Shown(cmdline=cmdline, environ=public, sent=sent, joined=self._joined())

    def ended(self) -> str:
        """How its rank ended; "" while it runs, or was not started."""
        return self.server.describe_exit() if self.server and self.server.poll() is not None else ""


def serve(agent: Agent, orders: queue.SimpleQueue[str]) -> int:
    """Obey until told to stop (drop: at once), or until the rank has ended: then 1."""
    looked = 0.0
    while True:
        try:
            order = orders.get(timeout=_STEP_S)
        except queue.Empty:
            order = ""
        if order in ("stop", "drop"):
            agent.grace_s = agent.launch.stop_grace_s if order == "stop" else _AT_ONCE_S
            return 0
        if order == "term":
            tell("ended", "told to stop by somebody else: a person, or Slurm at the end of its time")
            return 1
        if order:
            agent.obey(order)
        if agent.server and not agent.settled and time.monotonic() - looked > LOOK_EVERY_S:
            looked = time.monotonic()
            tell("idle", agent.idle(agent.server))
        if words := agent.ended():
            tell("ended", words)
            return 1


def _listen(orders: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        orders.put(line.strip())
    orders.put("stop")


def _beat() -> None:
    while True:
        tell("beat")
        time.sleep(BEAT_S)


def main() -> int:
    """The step's own number of this node, from Slurm's variables."""
    job = msgspec.json.decode(os.environ.pop(JOB), type=Job)
    os.environ.pop(OURS, None)
    agent = Agent(job, int(os.environ.get("SLURM_NODEID", "0")))
    orders: queue.SimpleQueue[str] = queue.SimpleQueue()
    signal.signal(signal.SIGTERM, lambda *_: orders.put("term"))
    for run in (lambda: _listen(orders), _beat):
        threading.Thread(target=run, daemon=True).start()
    try:
        return serve(agent, orders)
    except HarnessError as error:
        tell("ended", error.message)
        return 1
    finally:
        if agent.server is not None:
            agent.server.stop(agent.grace_s)
        tell("gone")


if __name__ == "__main__":
    sys.exit(main())
