"""The sha256 of a run's records: what the experiment log signs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from harness.errors import StoreError

DERIVED = ("comparison.json", "report.md", "report.html", "columns.npz", "campaign.told.json")
"""Files recomputed from the records; they may change with the harness and are not signed."""

LOG_SUFFIX = ".log"
"""Servers' logs name folders of their machine, so they may be left out where results are shared."""


def digest(run: Path) -> str:
    """sha256 over "<relative path> <sha256 of content>" of every record file of a run, sorted by path.

    Raises StoreError when the folder is missing or a file cannot be read.
    """
    if not run.is_dir():
        raise StoreError(f"{run} is missing; the run's results were moved or deleted.")
    total = hashlib.sha256()
    try:
        for path in files(run):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{path.relative_to(run).as_posix()} {content}\n".encode())
    except OSError as error:
        raise StoreError(
            f"{error.filename} cannot be read ({error.strerror}); check its permissions."
        ) from error
    return total.hexdigest()


def files(run: Path) -> Iterator[Path]:
    """The signed files in a fixed order: no derived file, no hidden or half-written one, no link."""
    for path in sorted(run.rglob("*"), key=lambda p: p.relative_to(run).as_posix()):
        hidden = any(part.startswith(".") for part in path.relative_to(run).parts)
        unsigned = hidden or path.name in DERIVED or path.suffix in (LOG_SUFFIX, ".partial")
        if path.is_file() and not path.is_symlink() and not unsigned:
            yield path
