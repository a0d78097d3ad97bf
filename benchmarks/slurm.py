"""A Slurm cluster of two nodes on this machine, to place client processes as a real one does.

    python -m benchmarks.slurm [words]    one trial of `load` by `srun --nodes=2`, at url= or at a server of
                                          known timing

Needs Slurm's and MUNGE's daemons (Debian: apt-get install slurm-wlm munge). Both nodes are this host: they
share its clock and its files; their processes, ports and job steps are Slurm's own.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from harness.client import known_server

NODES = ("left", "right")
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sinfo")
_READY_S = 30.0
_CONF = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdSpoolDir={folder}/spool.%n
StateSaveLocation={folder}/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
NodeName=left NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus}
NodeName=right NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus}
PartitionName=all Nodes=ALL Default=YES State=UP
"""


def missing() -> list[str]:
    """Programs that are not on this machine."""
    return [name for name in PROGRAMS if _path(name) is None]


@contextlib.contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """The environment in which `srun` reaches two idle nodes; all daemons are gone afterwards.

    Raises RuntimeError with the daemons' words when they are not ready in time.
    """
    with tempfile.TemporaryDirectory(prefix="slurm-") as name, contextlib.ExitStack() as daemons:
        folder = Path(name)
        conf = _configured(folder)
        env = {**os.environ, "SLURM_CONF": str(conf)}
        own = (f"--{key}={folder}/munge.{key.split('-')[0]}" for key in ("key-file", "socket", "pid-file"))
        more = (f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed")
        daemons.enter_context(_daemon(folder, "munged", "--foreground", "--force", *own, *more))
        _until((folder / "munge.socket").exists, folder)
        daemons.enter_context(_daemon(folder, "slurmctld", "-D", "-f", str(conf)))
        for node in NODES:
            daemons.enter_context(_daemon(folder, "slurmd", "-D", "-N", node, "-f", str(conf)))
        _until(lambda: _num_idle(env) == len(NODES), folder)
        yield env


def _configured(folder: Path) -> Path:
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    conf = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    values = {"host": host, "user": getpass.getuser(), "folder": folder, "cpus": os.cpu_count()}
    conf.write_text(_CONF.format(ports=_free_ports(3), **values))
    return conf


def _free_ports(num: int) -> list[int]:
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(num)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextlib.contextmanager
def _daemon(folder: Path, program: str, *words: str) -> Iterator[None]:
    with (folder / f"{program}.out").open("ab") as out:
        process = subprocess.Popen([_path(program) or program, *words], stdout=out, stderr=out)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _path(program: str) -> str | None:
    """Where it is; daemons often lie outside a user's PATH."""
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")


def _num_idle(env: dict[str, str]) -> int:
    words = ["sinfo", "--noheader", "--Node", "--states=idle", "--responding"]
    return len(subprocess.run(words, env=env, capture_output=True, text=True).stdout.splitlines())


def _until(ready: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + _READY_S
    while not ready():
        if time.monotonic() > deadline:
            logs = "\n".join(
                f"{p.name}: {p.read_text('utf-8', 'replace')[-800:]}" for p in folder.glob("*.out")
            )
            raise RuntimeError(f"Slurm's daemons were not ready within {_READY_S:g} s\n{logs}")
        time.sleep(0.1)


def show(words: Sequence[str]) -> int:
    """One trial of `load` by two tasks on two nodes."""
    with contextlib.ExitStack() as stack:
        env = stack.enter_context(cluster())
        given = list(words)
        if not any(word.startswith("url=") for word in words):
            url = stack.enter_context(known_server.running())
            given = [f"url={url}", "32/50", "rate=40", "num_prompts=400", "reference=none", *words]
        load = [sys.executable, "-m", "harness", "load", *given, "place=srun --nodes=2 --ntasks=2"]
        return subprocess.run(load, env=env).returncode


if __name__ == "__main__":
    sys.exit(show(sys.argv[1:]))
