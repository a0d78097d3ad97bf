"""Client processes with a network namespace each: nothing is shared but files. Needs root and `ip`.

    python -m benchmarks.namespaces               two of them fire one trial at a server on a bridge
    python -m benchmarks.namespaces A,B COMMAND   a stand-in for `srun --ntasks=2` in namespaces A and B

SLURM_PROCID and SLURM_NTASKS are set as srun does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from harness.client import known_server

GATEWAY = "10.77.0.1"


@contextmanager
def namespaces(num: int) -> Iterator[list[str]]:
    """Names of `num` network namespaces on one bridge; all gone afterwards. Raises CalledProcessError."""
    bridge, names = f"hbr{os.getpid()}", [f"hns{os.getpid()}-{i}" for i in range(num)]
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("addr", "add", f"{GATEWAY}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for i, name in enumerate(names):
            outside, inside = f"h{os.getpid()}o{i}", interface(i)
            _ip("netns", "add", name)
            _ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", name)
            _ip("link", "set", outside, "master", bridge, "up")
            _ip("-n", name, "addr", "add", f"10.77.0.{i + 2}/24", "dev", inside)
            _ip("-n", name, "link", "set", inside, "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL)
        subprocess.run(["ip", "link", "del", bridge], stderr=subprocess.DEVNULL)


def usable() -> bool:
    """Whether this process may make them."""
    try:
        with namespaces(1):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def interface(number: int) -> str:
    """The device inside namespace `number`, at 10.77.0.(number + 2)."""
    return f"h{os.getpid()}i{number}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def spread(names: Sequence[str], command: Sequence[str]) -> int:
    """Run the command once per namespace, all at the same time; the first exit status that is not 0."""
    tasks = [
        subprocess.Popen(
            ["ip", "netns", "exec", name, *command],
            env={**os.environ, "SLURM_PROCID": str(i), "SLURM_NTASKS": str(len(names))},
        )
        for i, name in enumerate(names)
    ]
    return next((status for status in [task.wait() for task in tasks] if status), 0)


def placing(names: Sequence[str]) -> str:
    """What place= takes to place one client process in each namespace."""
    return f"{sys.executable} -m benchmarks.namespaces {','.join(names)}"


def show(words: Sequence[str]) -> int:
    """One trial of `load` from two namespaces, at a server of known timing on the bridge."""
    with namespaces(2) as names, known_server.running(host=GATEWAY) as url:
        given = [f"url={url}", "32/50", "rate=40", "num_prompts=400", "reference=none", *words]
        load = [sys.executable, "-m", "harness", "load", *given, f"place={placing(names)}"]
        return subprocess.run(load).returncode


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(spread(sys.argv[1].split(","), sys.argv[2:]))
    sys.exit(show(sys.argv[1:]))
