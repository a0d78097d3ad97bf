"""wheels.lock: the sha256 of every wheel that this project was tried with, by file name.

`python -m harness.host.wheels REPORT ...` holds what pip fetched, by its own reports, against it. A wheel's
file name says version, Python and platform, and its content is the same wherever it is fetched: an index that
has other builds is no reason to refuse, one that has another content under the same name is. pip's
--require-hashes would refuse both. Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

LOCK = Path(__file__).resolve().parents[2] / "wheels.lock"


def locked(path: Path = LOCK) -> dict[str, set[str]]:
    """File name -> every sha256 that it may have; lines as sha256sum writes them."""
    found: dict[str, set[str]] = {}
    for line in path.read_text("utf-8").splitlines():
        digest, _, name = line.partition("  ")
        found.setdefault(name, set()).add(digest)
    return found


def reported(report: Path) -> Iterator[tuple[str, str]]:
    """(file name, sha256) of all that pip fetched, by its installation report (version 1)."""
    for one in json.loads(report.read_text("utf-8"))["install"]:
        info = one["download_info"]
        digest = info.get("archive_info", {}).get("hashes", {}).get("sha256", "")
        yield unquote(info["url"].rpartition("/")[2].partition("#")[0]), digest


def differing(fetched: Iterable[tuple[str, str]], known: dict[str, set[str]]) -> list[str]:
    """A sentence for each wheel whose content is not that of the wheel of its name."""
    return [
        f"{name} has sha256 {digest}, wheels.lock knows {' or '.join(sorted(known[name]))}: the package "
        "index serves another file under that name; do not use what was installed, and ask who runs the index"
        for name, digest in fetched
        if name in known and digest not in known[name]
    ]


def main() -> int:
    """Exit status: 1 for a wheel that is not what its name says."""
    fetched = [one for report in sys.argv[1:] if Path(report).exists() for one in reported(Path(report))]
    known = locked()
    wrong = differing(fetched, known)
    for line in wrong:
        print(f"error: {line}.", file=sys.stderr)
    unknown = sum(name not in known for name, _ in fetched)
    if unknown:
        print(
            f"{unknown} of {len(fetched)} wheels are builds that wheels.lock does not know", file=sys.stderr
        )
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
