"""A launch as a file for a scheduler: the same ranks in the words of Slurm, LWS, SkyPilot or a person. Pure.

Where each says a node's number, the first node's address and how many nodes there are: Slurm's srun(1),
kubernetes-sigs/lws at 060ab4d (api/leaderworkerset/v1/leaderworkerset_types.go), SkyPilot's documentation
(running-jobs/distributed-jobs).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import PurePosixPath
from textwrap import indent

from msgspec.structs import replace

from harness.containers.settings import RDMA, Host, container_options, file_names, run_command
from harness.errors import InputError
from harness.schema import HEAD, Launch
from harness.secrets import redacted_argv, redacted_env

_SHELLS = "'\"$HEAD\"'"
"""What the shell fills in, within the quotes that a word with braces always has."""
_DEVICE = {"cuda": "nvidia.com/gpu", "rocm": "amd.com/gpu"}
_SKY_NAME = {"cuda": "H200", "rocm": "MI300X"}
_FILES = "/tmp/serving-harness-files"
"""Where a node keeps what its container is given."""
_ADDRESS = "getent ahostsv4 {0} | awk '{{print $1; exit}}'"
"""An engine may bind to it, and takes a number only."""
_INTERFACE = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "MORI_SOCKET_IFNAME")
"""torch's; NCCL's and RCCL's; that of MORI's bootstrap (ROCm/mori 624002c, src/shmem/init.cpp)."""


def meeting_on(launch: Launch) -> Launch:
    """The launch whose ranks meet on its interface."""
    named = dict.fromkeys(_INTERFACE, launch.interface) if launch.interface else {}
    return replace(launch, env=named | launch.env)


def shell(launch: Launch, node: int, contained: bool = True) -> str:
    """What one node types, $HEAD the first one's address; secrets by name only."""
    own = meeting_on(launch.of_rank(node))
    if own.image and contained:
        options = container_options(own, "plan", Host(rdma=bool(launch.others), files_root=_FILES))
        return run_command(own, options).replace(HEAD, _SHELLS)
    env = [f"{k}={v if v.startswith('${') else shlex.quote(v)}" for k, v in redacted_env(own.env).items()]
    return " \\\n  ".join(["env", *env, shlex.join(redacted_argv(own.argv))]).replace(HEAD, _SHELLS)


def _all(launch: Launch, number: str, contained: bool = True) -> str:
    """What every node runs: its files, then its own command; `number` is the shell's word for which."""
    lines = [f"RANK={number}"]
    outside = (
        {p: f"{_FILES}/{n}" for p, n in file_names(launch).items()} if launch.image and contained else {}
    )
    for inside, content in launch.files.items():
        path = outside.get(inside, inside)
        lines += [f"mkdir -p {shlex.quote(str(PurePosixPath(path).parent))}"]
        lines += [f"cat > {shlex.quote(path)} <<'END'\n{content.rstrip()}\nEND"]
    ways = [f"{n}) exec {shell(launch, n, contained)} ;;" for n in range(len(launch.ranks))]
    return "\n".join([*lines, 'case "$RANK" in', *ways, "esac"])


def slurm(launch: Launch) -> str:
    """A file for sbatch, which runs it on the first node."""
    num, per_node = len(launch.ranks), launch.num_gpus // len(launch.ranks)
    own = "hostname -I | awk '{print $1}'"
    if launch.interface:
        own = f"ip -4 -o addr show dev {shlex.quote(launch.interface)}"
        own += ' | awk \'{sub("/.*", "", $4); print $4}\''
    asked = [f"--job-name={launch.variant}", f"--nodes={num}", "--exclusive"]
    asked += [f"--ntasks-per-node={per_node if launch.mpi else 1}"]
    asked += [f"--gpus-per-node={per_node}"] if per_node else []
    words = ["srun", "--kill-on-bad-exit=1", "--label", *([f"--mpi={launch.mpi}"] if launch.mpi else [])]
    if launch.mpi and launch.image:  # one world over all tasks: the containers must be Slurm's own (pyxis)
        mounts = ",".join(f"{host}:{inside}" for host, inside in launch.mounts.items())
        words += [f"--container-image={launch.image}", *([f"--container-mounts={mounts}"] if mounts else [])]
    body = _all(launch, '"$SLURM_NODEID"', contained=not launch.mpi)
    lines = ["#!/bin/bash", *(f"#SBATCH {word}" for word in [*asked, *shlex.split(launch.srun)])]
    return "\n".join(
        [*lines, f"export HEAD=$({own})", f"{shlex.join(words)} bash -s <<'RANKS'", body, "RANKS"]
    )


def script(launch: Launch) -> str:
    """Commands to paste, node by node."""
    _refuse_mpi(launch, "script")
    nodes = range(len(launch.ranks))
    return "\n".join(f"# --- on node {n}\nHEAD=ADDRESS_OF_NODE_0\n({_all(launch, str(n))})" for n in nodes)


def skypilot(launch: Launch) -> str:
    """A task for `sky launch`; which accelerators are meant is for its reader to correct."""
    _refuse_mpi(launch, "skypilot")
    each = launch.num_gpus // len(launch.ranks)
    wanted = [f"  accelerators: {_SKY_NAME[launch.accelerator]}:{each}"] if each else ["  cpus: 2+"]
    wanted += [f"  image_id: docker:{launch.image}"] if launch.image else []
    run = 'HEAD=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)\n' + _all(
        launch, '"$SKYPILOT_NODE_RANK"', contained=False
    )
    lines = [f"name: {launch.variant}", f"num_nodes: {len(launch.ranks)}", "resources:", *wanted]
    return "\n".join([*lines, "run: |", indent(run, "  ")])


def lws(launch: Launch) -> str:
    """A LeaderWorkerSet of one group, whose pods share their nodes' network and see their weights."""
    _refuse_mpi(launch, "lws")
    if not launch.image:
        raise InputError(f"{launch.variant} has no image for its pods; give image=NAME, or as=slurm.")
    num, name = len(launch.ranks), launch.variant.replace("_", "-").lower()
    each = launch.num_gpus // num
    run = "until HEAD=$(" + _ADDRESS.format('"$LWS_LEADER_ADDRESS"') + '); [ "$HEAD" ]; do sleep 1; done\n'
    run += _all(launch, '"$LWS_WORKER_INDEX"', contained=False)
    limits = f"{{{_DEVICE[launch.accelerator]}: {each}}}" if each else "{}"
    shared = {"/dev/shm": "/dev/shm", **({RDMA: RDMA} if launch.others else {})}
    mounts = {**{h: t for h, t in launch.mounts.items()}, **shared}
    volumes = "".join(f"\n- {{name: v{i}, hostPath: {{path: {h}}}}}" for i, h in enumerate(mounts))
    places = "".join(
        f"\n  - {{name: v{i}, mountPath: {t.removesuffix(':rw')}, readOnly: {str(not _writable(t)).lower()}}}"
        for i, t in enumerate(mounts.values())
    )
    pod = (
        f"hostNetwork: true\ndnsPolicy: ClusterFirstWithHostNet\ncontainers:\n- name: engine\n"
        f"  image: {launch.image}\n  securityContext: {{privileged: {str(bool(launch.others)).lower()}}}\n"
        f"  resources: {{limits: {limits}}}\n  command: [bash, -c]\n  args:\n  - |\n{indent(run, '    ')}\n"
        f"  volumeMounts:{places}\nvolumes:{volumes}"
    )
    return (
        "apiVersion: leaderworkerset.x-k8s.io/v1\nkind: LeaderWorkerSet\n"
        f"metadata: {{name: {name}}}\nspec:\n  replicas: 1\n  leaderWorkerTemplate:\n    size: {num}\n"
        "    restartPolicy: RecreateGroupOnPodRestart\n    workerTemplate:\n      spec:\n"
        + indent(pod, "        ")
    )


def _writable(target: str) -> bool:
    return target.endswith(":rw") or target.startswith("/dev/")


def _refuse_mpi(launch: Launch, kind: str) -> None:
    """Raises InputError: an MPI world over nodes is srun's to make."""
    if launch.mpi:
        raise InputError(
            f"{launch.variant} is one world of MPI over its nodes, which as={kind} cannot make; as=slurm can."
        )


KINDS: dict[str, Callable[[Launch], str]] = {
    "slurm": slurm,
    "lws": lws,
    "skypilot": skypilot,
    "script": script,
}


def known(kind: str) -> None:
    """Raises InputError for a scheduler that is not."""
    if kind not in KINDS:
        raise InputError(f"as={kind} is no scheduler known here; there are: {', '.join(KINDS)}.")
