"""ep-check's torchrun command on one node or several, and what it prints."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InputError, MachineError

KEYS = ("nodes", "node_rank", "master", "interface", "rdma_devices")
_ROOT = Path(__file__).resolve().parents[2]
_TIMEOUT_S = 1800.0
_PORT = 29500
"""torchrun's own default."""


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """Where the ranks run."""

    ranks: int
    count: int = 1
    rank: int | None = None
    """This node's number; None = not said, so only the commands are shown."""
    address: str = ""
    port: int = _PORT
    interface: str = ""
    rdma_devices: str = ""

    @property
    def per_node(self) -> int:
        """Ranks of one node."""
        return self.ranks // self.count

    @property
    def environ(self) -> dict[str, str]:
        """What every node's process needs set, as the guide's section 9 sets it.

        GLOO_SOCKET_IFNAME is torch's, NCCL_SOCKET_IFNAME NCCL's and RCCL's, MORI_SOCKET_IFNAME that of MORI's
        bootstrap (src/shmem/init.cpp at ROCm/mori 624002c).
        """
        names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "MORI_SOCKET_IFNAME")
        found = dict.fromkeys(names, self.interface) if self.interface else {}
        return found | ({"MORI_RDMA_DEVICES": self.rdma_devices} if self.rdma_devices else {})

    def words(self, rank: int) -> list[str]:
        """torchrun's own words on node `rank`: static rendezvous at the master, as in the guide."""
        if self.count == 1:
            return ["--nproc-per-node", str(self.ranks)]
        shape = [
            "--nnodes",
            str(self.count),
            "--node-rank",
            str(rank),
            "--nproc-per-node",
            str(self.per_node),
        ]
        return [*shape, "--master-addr", self.address, "--master-port", str(self.port)]


def nodes(settings: Mapping[str, str], ranks: int) -> Nodes:
    """From ranks= (of all nodes) and the keys of KEYS. Raises InputError."""
    count = number(settings.get("nodes", "1"), "nodes")
    if ranks % count:
        raise InputError(f"{ranks} ranks do not split over {count} nodes: ranks= counts those of all nodes.")
    alone = [key for key in KEYS[1:] if settings.get(key)] if count == 1 else []
    if alone:
        raise InputError(f"{alone[0]}= is for several nodes: give nodes= too.")
    address, _, port = settings.get("master", "").partition(":")
    if count > 1 and not address:
        raise InputError(
            "Several nodes meet at the first one: give master=HOST[:PORT], an address all of them reach."
        )
    rank = settings.get("node_rank", "")
    if rank and not (rank.isdigit() and int(rank) < count):
        raise InputError(f"node_rank={rank!r} is none of 0 to {count - 1}.")
    devices = settings.get("rdma_devices", "")
    if devices and not re.fullmatch(r"\^?[\w.-]+(,[\w.-]+)*", devices):
        raise InputError(
            f"rdma_devices={devices!r} is no list: write mlx5_0,mlx5_1, or ^mlx5_0,mlx5_1 for all but these."
        )
    return Nodes(
        ranks=ranks,
        count=count,
        rank=int(rank) if rank else (0 if count == 1 else None),
        address=address,
        port=number(port, "the port of master") if port else _PORT,
        interface=settings.get("interface", ""),
        rdma_devices=devices,
    )


def by_hand(where: Nodes, python: str, program: Sequence[str]) -> str:
    """One line per node, to paste there."""
    lines = []
    for rank in range(where.count):
        # A whole assignment in quotes would be a command's name to the shell.
        assigned = [f"{name}={shlex.quote(value)}" for name, value in where.environ.items()]
        argv = shlex.join([python, "-m", "torch.distributed.run", *where.words(rank), *program])
        lines += [f"node {rank}:", "  " + " ".join([*assigned, argv])]
    return "\n".join(lines)


def run(where: Nodes, python: str, program: Sequence[str]) -> tuple[str, int]:
    """(what ep_check printed, exit status) on this node. Raises MachineError."""
    rank = where.rank or 0
    output, status = alone(
        [python, "-m", "torch.distributed.run", *where.words(rank), *program], where.environ
    )
    if rank:
        return f"node {rank} of {where.count} is done; node 0 prints the result", status
    return output, status


def alone(argv: Sequence[str], extra: Mapping[str, str]) -> tuple[str, int]:
    """(standard output, exit status) of a command in the project's folder. Raises MachineError."""
    environ = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), **extra}
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
    if done.returncode and not done.stdout.strip():
        raise MachineError(
            f"ep-check ended with {done.returncode} and printed nothing.", details=done.stderr[-2000:]
        )
    return done.stdout, done.returncode


def number(text: str, name: str) -> int:
    """A positive whole number. Raises InputError."""
    if not str(text).isdigit() or int(text) < 1:
        raise InputError(f"{name}={text!r} is no positive whole number.")
    return int(text)


def interpreter() -> str:
    """A Python with torch: an engine's environment made here, else python3."""
    found = sorted((_ROOT / ".engines").glob("*/lib/python*/site-packages/torch"))
    return str(found[-1].parents[3] / "bin" / "python") if found else "python3"
