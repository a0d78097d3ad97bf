"""`just doctor nodes=2`: do these nodes go together, is one of them slow? Nothing of an engine is started."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

from harness import plan
from harness.host.check import Check
from harness.host.machine import probe
from harness.ranks import nodes
from harness.ranks.agent import Job
from harness.ranks.step import Gathered, Step, gather
from harness.recipe import Words
from harness.schema import Launch, Rank

_PORT = 20000


def checks(given: Sequence[str]) -> tuple[Check, ...]:
    """What every node is, then what keeps them apart. `given`: [VARIANT] nodes=N [interface=] [srun=] ...

    Raises InputError, and LaunchError where a node does not answer.
    """
    launch = _launch(given)
    step = Step(Job(launch=launch), os.open(os.devnull, os.O_WRONLY))
    try:
        return tuple(_checks(gather(step, launch)))
    finally:
        step.stop(5.0)


def _launch(given: Sequence[str]) -> Launch:
    """A variant's; of none, what this harness itself needs."""
    words = Words(given)
    if words.plain:
        return plan.plan(plan.recipe_of(given, probe())[0], probe())[0].launch
    num, interface, srun = (words.take(key) for key in ("nodes", "interface", "srun"))
    words.nothing_left("doctor", "VARIANT, nodes=, interface=, srun=")
    others = (Rank(),) * (int(num or 1) - 1)
    return Launch(argv=(sys.executable,), others=others, interface=interface, srun=srun, port=_PORT)


def _checks(found: Gathered) -> Iterator[Check]:
    first = found.looks[0]
    for look, met in zip(found.looks, found.met or (None,) * len(found.looks), strict=True):
        speed = f"{look.cpu_mb_s:.0f} MB/s of sha256, memory {look.memory_gb_s:.0f} GB/s"
        clock = f", clock {met.offset_s * 1e3:+.1f} ms, {met.round_trip_s * 1e3:.1f} ms away" if met else ""
        port = "".join(f"; port {port} is taken" for port in look.busy_ports)
        at = ", ".join(f"{name} {address}" for name, address in look.addresses.items())
        yield Check(
            name=look.host, state="ok", detail=f"{speed}{clock if look is not first else ''}; {at}{port}"
        )
    for what, value in first.same.items():
        if all(look.same.get(what) == value for look in found.looks):
            yield Check(name=what, state="ok", detail=f"the same on all: {value}")
    for fault in found.faults:
        yield Check(name="together", state="missing", detail=fault)
    for fault in nodes.slow(found.looks):
        yield Check(name="speed", state="warn", detail=fault)
    if not found.faults:
        yield Check(name="together", state="ok", detail=f"ranks would meet at {found.head}")
