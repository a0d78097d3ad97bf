"""A Slurm cluster of two nodes on this machine, to place client processes and engines as a real one does.

    python -m benchmarks.slurm [words]    one trial of `load` by `srun --nodes=2`, at url= or at a server of
                                          known timing

Needs Slurm's and MUNGE's daemons (Debian: apt-get install slurm-wlm munge). Both nodes are this host: they
share its clock and its files; their processes, ports and job steps are Slurm's own. In `apart()` each has its
own network, process numbers, /dev/shm, host name and mounts.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import namespaces
from harness.client import known_server

NODES = ("left", "right")
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sinfo")
_READY_S = 30.0
_CONF = """
ClusterName=loopback
SlurmctldHost={host}({address})
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
SlurmdParameters=config_overrides
GresTypes=gpu
KillWait=5
TaskProlog={folder}/prolog
SlurmdTimeout=30
NodeName=left NodeHostname={names[0]} NodeAddr={addresses[0]} Port={ports[1]} CPUs={cpus} Gres=gpu:8
NodeName=right NodeHostname={names[1]} NodeAddr={addresses[1]} Port={ports[2]} CPUs={cpus} Gres=gpu:8
PartitionName=all Nodes=ALL Default=YES State=UP
"""
FABRIC = "fabric"
"""The link between the two nodes of apart() that nothing but an engine uses."""
_FABRIC_ADDRESSES = ("10.78.0.1", "10.78.0.2")
_PROLOG = """#!/bin/sh
cat {folder}/prolog.$SLURMD_NODENAME 2>/dev/null
exit 0
"""
"""Before each task: lines `export NAME=VALUE` that a node's own commands have left there."""
_ENTERED = """
FOLDER={folder}
mount -t tmpfs -o size=2g tmpfs /dev/shm; mount --bind {folder}/hosts /etc/hosts; hostname {node}
{more}
exec {slurmd} -D -N {node} -f {conf}
"""


class Apart(NamedTuple):
    """Nodes that share nothing but this machine's clock and files."""

    env: dict[str, str]
    """In which srun reaches them."""
    spaces: dict[str, str]
    """Node -> its network namespace."""

    def pids(self, node: str) -> list[int]:
        """This machine's numbers of everything that runs on a node, Slurm's own daemons apart."""
        inside = subprocess.run(["ip", "netns", "pids", self.spaces[node]], capture_output=True, text=True)
        return [int(pid) for pid in inside.stdout.split() if not _is_slurms(int(pid))]

    def sent(self, node: str, device: str = FABRIC) -> int:
        """Bytes sent over a network device of a node."""
        path = f"/sys/class/net/{device}/statistics/tx_bytes"
        words = ["ip", "netns", "exec", self.spaces[node], "cat", path]
        return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)

    def ip(self, node: str, *words: str) -> None:
        """`ip` within a node's network."""
        subprocess.run(["ip", "-n", self.spaces[node], *words], check=True)


def _is_slurms(pid: int) -> bool:
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return True
    ours = ("sh", "sleep", "pgrep")  # what `unlike` began
    return name in ("slurmd", "slurmstepd", "unshare", "nsenter", *ours)


def missing() -> list[str]:
    """Programs that are not on this machine."""
    return [name for name in PROGRAMS if _path(name) is None]


@contextlib.contextmanager
def apart(unlike: Mapping[str, str] | None = None) -> Iterator[Apart]:
    """Two nodes in namespaces of their own. `unlike`: node -> shell commands that make it so. Needs root.

    Each is a process-number namespace: with its slurmd everything on it ends.
    """
    with namespaces.namespaces(2) as names:
        _ip("link", "add", FABRIC, "netns", names[0], "type", "veth", "peer", FABRIC, "netns", names[1])
        for name, address in zip(names, _FABRIC_ADDRESSES, strict=True):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", FABRIC)
            _ip("-n", name, "link", "set", FABRIC, "up")
        spaces = dict(zip(NODES, names, strict=True))
        with cluster(spaces, unlike) as env:
            yield Apart(env, spaces)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def cluster(
    spaces: Mapping[str, str] | None = None, unlike: Mapping[str, str] | None = None
) -> Iterator[dict[str, str]]:
    """The environment in which `srun` reaches two idle nodes; all daemons are gone afterwards.

    Raises RuntimeError with the daemons' words when they are not ready in time.
    """
    with tempfile.TemporaryDirectory(prefix="slurm-") as name, contextlib.ExitStack() as daemons:
        folder = Path(name)
        folder.chmod(0o755)
        conf = _configured(folder, bool(spaces))
        env = {**os.environ, "SLURM_CONF": str(conf)}
        own = (f"--{key}={folder}/munge.{key.split('-')[0]}" for key in ("key-file", "socket", "pid-file"))
        more = (f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed")
        daemons.enter_context(_daemon(folder, "munged", "--foreground", "--force", *own, *more))
        _until((folder / "munge.socket").exists, folder)
        daemons.enter_context(_daemon(folder, "slurmctld", "-D", "-f", str(conf)))
        for node in NODES:
            command = [_path("slurmd") or "slurmd", "-D", "-N", node, "-f", str(conf)]
            if spaces:
                command = _entering(folder, conf, node, spaces[node], (unlike or {}).get(node, ""))
            daemons.enter_context(_daemon(folder, *command, name=f"slurmd.{node}"))
        _until(lambda: _num_idle(env) == len(NODES), folder)
        yield env


def _entering(folder: Path, conf: Path, node: str, space: str, more: str) -> list[str]:
    """slurmd as first process of its namespaces; `ip netns exec` would hide cgroups."""
    script = _ENTERED.format(folder=folder, node=node, more=more, slurmd=_path("slurmd"), conf=conf)
    own = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return ["nsenter", f"--net=/run/netns/{space}", *own, "sh", "-c", script]


def _configured(folder: Path, is_apart: bool) -> Path:
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    conf = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    values = {"host": host, "user": getpass.getuser(), "folder": folder, "cpus": max(8, os.cpu_count() or 1)}
    address, addresses, names = "127.0.0.1", ("127.0.0.1",) * 2, (host,) * 2
    if is_apart:
        address, addresses, names = namespaces.GATEWAY, ("10.77.0.2", "10.77.0.3"), NODES
    at = "".join(f"{a} {n}\n" for a, n in zip((address, *addresses), (host, *names), strict=True))
    (folder / "prolog").write_text(_PROLOG.format(folder=folder))
    (folder / "prolog").chmod(0o755)
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n{at}")
    where = {"address": address, "addresses": addresses, "names": names}
    for number in range(8):  # accelerators in name: what asks for them is placed
        (folder / f"gpu{number}").touch()
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-7]\n")
    conf.write_text(_CONF.format(ports=_free_ports(3), **values, **where))
    return conf


def _free_ports(num: int) -> list[int]:
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(num)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextlib.contextmanager
def _daemon(folder: Path, program: str, *words: str, name: str = "") -> Iterator[None]:
    with (folder / f"{name or program}.out").open("ab") as out:
        process = subprocess.Popen([_path(program) or program, *words], stdout=out, stderr=out)
    try:
        yield
    finally:
        (process.kill if name else process.terminate)()  # unshare heeds nothing less, and takes all with it
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
