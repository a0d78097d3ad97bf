"""Do the nodes of one engine go together? What each showed against what the others did. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from harness.ranks.look import Look, Met

CLOCKS_S = 0.05
"""Time stamps of several logs are put side by side."""
IDLE_S = 6.0
"""Of all ranks at once: no step of a start is that long without computing or reading."""
RETRY = 1.0
"""Of the time for which a rank has called the first one in vain: longest until it calls again. torch 2.13's
rendezvous, against a closed port, paused for 0.3 to 0.7 of it (docs/NODES.md); chance may stretch that."""
_SLOWER = 0.85
"""Share of the fastest node's speed from which on a node holds the others up."""


def faults(looks: Sequence[Look], met: Sequence[Met], port_owner: str = "") -> tuple[str, ...]:
    """Sentences, each naming the node it is about; () = they go together."""
    return (*_foreign(looks), *_unmet(looks, met), *_clocks(looks, met), *_ports(looks, met))


def _foreign(looks: Sequence[Look]) -> Iterator[str]:
    """What differs; where most nodes agree, the others are the foreign ones."""
    for what in looks[0].same:
        values = {look.host: look.same.get(what, "not told") for look in looks}
        usual, num = Counter(values.values()).most_common(1)[0]
        if num == len(looks):
            continue
        if num > len(looks) / 2:
            for host, value in values.items():
                if value != usual:
                    yield f"{host} has another {what} than the other nodes: {value}, they {usual}"
        else:
            shown = ", ".join(f"{host} {value}" for host, value in values.items())
            yield f"the nodes differ in {what}: {shown}"


def _unmet(looks: Sequence[Look], met: Sequence[Met]) -> Iterator[str]:
    for look, how in zip(looks, met, strict=False):
        if how.problem:
            yield f"{look.host} {how.problem}"


def _clocks(looks: Sequence[Look], met: Sequence[Met]) -> Iterator[str]:
    for look, how in zip(looks, met, strict=False):
        if abs(how.offset_s) - how.round_trip_s / 2 > CLOCKS_S:
            yield f"the clock of {look.host} is {how.offset_s:+.3f} s off that of {looks[0].host}"


def _ports(looks: Sequence[Look], met: Sequence[Met]) -> Iterator[str]:
    for port in looks[0].busy_ports:  # only the first node listens
        yield f"port {port} is in use on {looks[0].host}"


def absent(told: Sequence[tuple[float, bool]]) -> tuple[int, ...]:
    """Ranks that will never join, of (seconds idle, joined) by rank: nobody works, nor is to call again."""
    least, most = min(seconds for seconds, _ in told), max(seconds for seconds, _ in told)
    if least < max(IDLE_S, RETRY * (most - least)):
        return ()
    return tuple(rank for rank, (_, joined) in enumerate(told) if rank and not joined)


def slow(looks: Sequence[Look]) -> tuple[str, ...]:
    """Nodes that are slower than the fastest by more than runs of one node differ."""
    lines = []
    for what, unit in (("cpu_mb_s", "MB/s of sha256"), ("memory_gb_s", "GB/s of memory")):
        best = max(getattr(look, what) for look in looks)
        lines += [
            f"{look.host} is slow: {getattr(look, what):.0f} {unit}, the fastest node {best:.0f}"
            for look in looks
            if getattr(look, what) < _SLOWER * best
        ]
    return tuple(lines)
