"""What one node is: all in which nodes of one engine must not differ, its clock, its network's counters."""

from __future__ import annotations

import hashlib
import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from harness import launchers, models, registry
from harness.containers import docker_engine
from harness.errors import HarnessError
from harness.host import calibration, environment
from harness.label.dialect import meeting_port
from harness.schema import Launch, Noun

_PIECE = 1 << 20
_ROUNDS = 5
MEET_S = 3.0
"""Longest until all nodes have reached the first one."""


class Look(Noun):
    """One node before anything of an engine runs on it."""

    host: str
    addresses: dict[str, str]
    """Network interface -> its IPv4 address; loopback left out."""
    same: dict[str, str]
    """What must be the same on all nodes, by what it is called."""
    cpu_mb_s: float
    memory_gb_s: float
    busy_ports: tuple[int, ...] = ()


class Met(Noun):
    """How a node reached the first one; `problem` says why it did not."""

    offset_s: float = 0.0
    """Its clock minus the first node's, within half of round_trip_s."""
    round_trip_s: float = 0.0
    problem: str = ""


def look(launch: Launch, inner: str) -> Look:
    """Look at this node. Takes a second; nothing is started but the engine's Python, to list its packages."""
    measured = calibration.calibrate()
    same = {
        "this harness": _digest(sorted((registry.ROOT / "harness").rglob("*.py"))),
        "kernel": os.uname().release,
        "accelerators": ", ".join(f"{g.name} ({g.driver})" for g in environment.find_gpus()) or "none",
        "locked memory": str(resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]),
        "fabric": ", ".join(_fabric()) or "no RDMA device",
        **({"interface": _interface(launch.interface)} if launch.interface else {}),
        **({"weights": _weights(launch.model)} if launch.model else {}),
        **({"image": docker_engine.image_digest(launch.image) or "absent"} if launch.image else {}),
        **({} if launch.image else {"Python's packages": _packages(launch, inner)}),
    }
    found = {n: a.address for n, all_of in psutil.net_if_addrs().items() for a in all_of if _ipv4(a)}
    asked = (launch.port, *([meeting_port(launch.port)] if launch.others else ()))
    return Look(
        host=os.environ.get("SLURMD_NODENAME", socket.gethostname()),
        addresses=found,
        same=same,
        cpu_mb_s=measured.cpu_mb_s,
        memory_gb_s=measured.memory_gb_s,
        busy_ports=tuple(port for port in asked if not _free(port)),
    )


def _ipv4(address: object) -> bool:
    family, ip = getattr(address, "family", None), str(getattr(address, "address", ""))
    return family == socket.AF_INET and not ip.startswith("127.")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
        return True


def _fabric() -> Iterator[str]:
    for port in sorted(Path("/sys/class/infiniband").glob("*/ports/*")):
        said = " ".join((port / name).read_text().strip() for name in ("state", "rate"))
        yield f"{port.parent.parent.name} {said}"


def _interface(name: str) -> str:
    found = psutil.net_if_stats().get(name)
    return (
        f"{name} {'up' if found.isup else 'down'}, MTU {found.mtu}, {found.speed} Mb/s" if found else "absent"
    )


def _weights(model: str) -> str:
    """Number, bytes and a digest of names, sizes and both ends of each file: whole ones take minutes."""
    try:
        path = models.resolve(model).path
    except HarnessError as error:
        return error.message
    files = sorted(p for p in Path(path).rglob("*") if p.is_file()) if path else []
    size = sum(file.stat().st_size for file in files)
    return f"{len(files)} files, {size} bytes, {_digest(files)}" if files else "absent"


def _digest(files: list[Path]) -> str:
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.name} {file.stat().st_size}".encode())
        with file.open("rb") as content:
            whole.update(content.read(_PIECE))
            content.seek(max(0, file.stat().st_size - _PIECE))
            whole.update(content.read(_PIECE))
    return whole.hexdigest()[:12]


def _packages(launch: Launch, inner: str) -> str:
    try:
        words = launchers.named(inner).python(launch, Path(__file__).with_name("packages.py"))
    except HarnessError as error:
        return error.message
    return words.strip() or "none that can be listed"


def sent() -> dict[str, int]:
    """Bytes sent so far by network interface, loopback left out, and by RDMA port."""
    counted = {n: c.bytes_sent for n, c in psutil.net_io_counters(pernic=True).items() if n != "lo"}
    for port in Path("/sys/class/infiniband").glob("*/ports/*/counters/port_xmit_data"):
        counted[port.parts[4]] = 4 * int(port.read_text())  # counted in words of four bytes
    return counted


def meet(number: int, others: int, address: str, port: int) -> Met:
    """Node 0 listens at the address, the others tell it the time until each knows how far off it is."""
    try:
        return _host(others, address, port) if number == 0 else _guest(address, port)
    except OSError as error:
        verb = "cannot listen at" if number == 0 else "does not reach"
        return Met(problem=f"{verb} {address}:{port} ({error.strerror or type(error).__name__})")


def _host(others: int, address: str, port: int) -> Met:
    with socket.create_server((address, port)) as server:
        server.settimeout(MEET_S)
        for _ in range(others):
            try:
                guest, _ = server.accept()
            except TimeoutError:  # those who did not come say why
                break
            with guest, guest.makefile("rwb") as lines:
                while lines.readline():  # the guest hangs up: the port is free again at once
                    lines.write(f"{time.time()}\n".encode())
                    lines.flush()
    return Met()


def _guest(address: str, port: int) -> Met:
    best = Met(round_trip_s=float("inf"))
    with _reached(address, port) as server, server.makefile("rwb") as lines:
        for _ in range(_ROUNDS):
            asked = time.time()
            lines.write(b"?\n")
            lines.flush()
            said, answered = float(lines.readline()), time.time()
            if answered - asked < best.round_trip_s:
                best = Met(offset_s=(asked + answered) / 2 - said, round_trip_s=answered - asked)
    return best


def _reached(address: str, port: int) -> socket.socket:
    deadline = time.monotonic() + MEET_S - 1.0
    while True:
        try:
            return socket.create_connection((address, port), timeout=1.0)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
