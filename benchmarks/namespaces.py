"""Client processes with a network namespace each: nothing is shared but files. Needs root and `ip`.

    python -m benchmarks.namespaces               two of them fire one trial at a server of this host
    python -m benchmarks.namespaces A,B COMMAND   a stand-in for `srun --ntasks=2` in namespaces A and B

SLURM_PROCID and SLURM_NTASKS are set as srun does.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.client import known_server

GATEWAY = "10.77.0.1"


@contextmanager
def namespaces(num: int) -> Iterator[list[str]]:
    """Names of `num` network namespaces on one switch; they and their processes are gone afterwards.

    The bridge has a namespace of its own: where Docker filters what this host forwards, packets that
    cross a bridge of the host's are dropped. The host is on it too, at GATEWAY: whoever comes second waits.
    Raises CalledProcessError.
    """
    with Path(tempfile.gettempdir(), f"{GATEWAY}.lock").open("w") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        with _namespaces(num) as names:
            yield names


@contextmanager
def _namespaces(num: int) -> Iterator[list[str]]:
    switch, names = f"hsw{os.getpid()}", [f"hns{os.getpid()}-{i}" for i in range(num)]
    try:
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        _ip("link", "add", _host(), "type", "veth", "peer", "name", "host", "netns", switch)
        _ip("-n", switch, "link", "set", "host", "master", "bridge", "up")
        _ip("addr", "add", f"{GATEWAY}/24", "dev", _host())
        _ip("link", "set", _host(), "up")
        for i, name in enumerate(names):
            _ip("netns", "add", name)
            _ip(
                "-n",
                switch,
                "link",
                "add",
                f"to{i}",
                "type",
                "veth",
                "peer",
                "name",
                interface(i),
                "netns",
                name,
            )
            _ip("-n", switch, "link", "set", f"to{i}", "master", "bridge", "up")
            _ip("-n", name, "addr", "add", f"10.77.0.{i + 2}/24", "dev", interface(i))
            _ip("-n", name, "link", "set", interface(i), "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in (*names, switch):
            _empty(name)
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL)
        subprocess.run(["ip", "link", "del", _host()], stderr=subprocess.DEVNULL)


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


def _host() -> str:
    return f"h{os.getpid()}"


def _empty(name: str) -> None:
    """End what still runs inside: a namespace lives as long as its processes."""
    inside = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
    for pid in inside.stdout.split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


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
    """One trial of `load` from two namespaces, at a server of known timing on the host."""
    with namespaces(2) as names, known_server.running(host=GATEWAY) as url:
        given = [f"url={url}", "32/50", "rate=40", "num_prompts=400", "reference=none", *words]
        load = [sys.executable, "-m", "harness", "load", *given, f"place={placing(names)}"]
        return subprocess.run(load).returncode


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(spread(sys.argv[1].split(","), sys.argv[2:]))
    sys.exit(show(sys.argv[1:]))
