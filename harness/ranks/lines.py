"""Lines of several ranks in one stream. Pure.

srun labels lines with their rank and cuts whatever is longer than 1024 bytes; so agents cut first, and mark
what goes on, and whoever reads puts it together again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

GOES_ON = "\u21aa"
"""Begins what belongs to its rank's line before."""
_LONGEST = 900


def cut(line: bytes) -> Iterator[bytes]:
    """A line, without its end, in pieces that srun leaves whole."""
    mark = b""
    while True:
        piece = line[:_LONGEST].decode("utf-8", "ignore").encode() or line[:_LONGEST]
        yield mark + piece
        mark, line = GOES_ON.encode(), line[len(piece) :]
        if not line:
            return


def by_rank(lines: Iterable[str], num: int) -> list[tuple[str, ...]]:
    """Each rank's whole lines, labels ("1: ") taken off; where there is one rank, nothing is labelled."""
    found: list[list[str]] = [[] for _ in range(num)]
    for line in lines:
        rank, text = 0, line
        if num > 1:
            label, colon, text = line.partition(": ")
            if not (colon and label.isdecimal() and int(label) < num):
                continue
            rank = int(label)
        if text.startswith(GOES_ON) and found[rank]:
            found[rank][-1] += text.removeprefix(GOES_ON)
        else:
            found[rank].append(text)
    return [tuple(own) for own in found]
