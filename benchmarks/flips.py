"""Is any single changed byte of a bundle found? Bits are flipped, verify.py is asked: docs/RELIABILITY.md.

    python -m benchmarks.flips BUNDLE [NUM]      NUM random places over all files, 2,000 unless given

Each flip changes one bit of one byte. Of verify.py is asked, for one place of every file, all that it checks;
for every byte of files up to SMALL, and for NUM places drawn over all bytes, hashes and signature; for NUM
places of the one file, and both its ends, whether it can still be read as the same.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.sealing import verify

SMALL = 512
ENDS = 64
Files = dict[str, bytes]
Place = tuple[str, int]


def flipped(content: bytes, place: int, dice: random.Random) -> bytes:
    """One bit of one byte is another."""
    changed = bytearray(content)
    changed[place] ^= 1 << dice.randrange(8)
    return bytes(changed)


def found(files: Files, whole: bool) -> bool:
    """Whether verify.py says that something is wrong; what it cannot even read counts as said."""
    try:
        if whole:
            return bool(verify.check(files)[1])  # type: ignore[no-untyped-call]
        wrong = list(verify.hashes(files))  # type: ignore[no-untyped-call]
        return bool(wrong) or bool(verify.signature(files, "")[1])  # type: ignore[no-untyped-call]
    except Exception:  # as verify.py's own last lines: it says that the bundle cannot be read
        return True


def missed(files: Files, places: list[Place], dice: random.Random, whole: bool = False) -> list[Place]:
    """The places whose change nobody noticed."""
    return [
        (name, place)
        for name, place in places
        if not found({**files, name: flipped(files[name], place, dice)}, whole)
    ]


def missed_in_one(bundle: Path, files: Files, places: list[int], dice: random.Random) -> list[int]:
    """Places of the one file whose change leaves it readable, and the same or unnoticed."""
    content, left = bundle.read_bytes(), []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / bundle.name
        for place in places:
            path.write_bytes(flipped(content, place, dice))
            try:
                read = verify.read(path)  # type: ignore[no-untyped-call]
            except Exception:  # as above
                continue
            if read == files or not found(read, whole=False):
                left.append(place)
    return left


def rows(bundle: Path, num: int) -> Iterator[tuple[str, int, Callable[[], list[object]]]]:
    """(what, how many flips, what asks and returns those that were missed)."""
    dice, files = random.Random(1), verify.read(bundle)  # type: ignore[no-untyped-call]
    each = [(name, dice.randrange(len(content))) for name, content in files.items() if content]
    yield "one byte of every file, all of verify.py", len(each), lambda: [*missed(files, each, dice, True)]
    small = [(n, i) for n, content in files.items() if len(content) <= SMALL for i in range(len(content))]
    text = f"every byte of files up to {SMALL} bytes, hashes and signature"
    yield text, len(small), lambda: [*missed(files, small, dice)]
    drawn = dice.choices([*files], [len(content) for content in files.values()], k=num)
    over = [(name, dice.randrange(len(files[name]))) for name in drawn]
    yield "bytes drawn over all files, hashes and signature", num, lambda: [*missed(files, over, dice)]
    size = bundle.stat().st_size
    ends = [*range(ENDS), *range(size - ENDS, size), *(dice.randrange(size) for _ in range(num))]
    text = "bytes of the one file, and both its ends"
    yield text, len(ends), lambda: [*missed_in_one(bundle, files, ends, dice)]


def main() -> int:
    """1 when one was missed."""
    bundle, num = Path(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else 2000
    unseen = 0
    print("| flipped | flips | missed | s |\n| :-- | --: | --: | --: |")
    for what, flips, ask in rows(bundle, num):
        began = time.monotonic()
        left = ask()
        unseen += len(left)
        told = f"| {what} | {flips:,} | {len(left)} | {time.monotonic() - began:.0f} |"
        print(told, *left[:5], flush=True)
    return bool(unseen)


if __name__ == "__main__":
    sys.exit(main())
