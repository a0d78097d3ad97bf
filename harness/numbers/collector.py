"""requests.jsonl as columns, at any size: streamed, decoded on all cores, memory-mapped afterwards.

A large file is decoded once into `.columns/` beside it, one .npy file a column; later reads map only the
columns they use. The folder is derived: it is remade when requests.jsonl changes and may be deleted.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec
import numpy as np

from harness import store
from harness.errors import StoreError
from harness.numbers.columns import Columns
from harness.numbers.decoding import FIELDS, Part, decode, decode_to_files
from harness.schema import RequestRecord

SIDECAR_BYTES = store.STAYS_PLAIN_BYTES
"""Files below this are decoded each time: it takes less than a second."""
SIDECAR = ".columns"
SAMPLE_BYTES = 16 << 20


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What the columns do not hold. `size` and `mtime_ns` are those of the requests.jsonl decoded."""

    size: int
    mtime_ns: int
    num: int
    errors: dict[str, int]
    """Error kind -> failed requests."""
    num_without_usage: int
    num_backwards: int
    bad_lines: int
    first_bad: str
    truncated: bool


@dataclass(frozen=True, slots=True)
class Collected:
    """One trial's requests, and in words whatever was wrong with the file."""

    columns: Columns
    summary: Summary
    sample_path: Path
    """Whole records: all of a small file; of a large one about SAMPLE_BYTES, chosen by request id."""

    def sample(self) -> list[RequestRecord]:
        """The records of sample_path that this version can read."""
        decoder = msgspec.json.Decoder(RequestRecord)
        records = []
        for line in store.lines(self.sample_path):
            with contextlib.suppress(msgspec.MsgspecError):
                records.append(decoder.decode(line))
        return records

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence for each defect of the file; the rest of it is used."""
        s = self.summary
        notes = []
        if s.truncated:
            notes.append("the last record is cut off (the harness was stopped while writing); it is left out")
        if s.bad_lines:
            notes.append(f"{s.bad_lines} records cannot be read and are left out, the first: {s.first_bad}")
        if s.num_backwards:
            notes.append(f"{s.num_backwards} requests have times that run backwards; they count as failed")
        if s.num_without_usage:
            notes.append(f"{s.num_without_usage} requests came without usage; their tokens were re-tokenized")
        if not self.columns.ok.any():
            causes = ", ".join(f"{num} {kind or 'other'}" for kind, num in s.errors.items())
            notes.append(f"no request succeeded ({causes or 'the file is empty'})")
        return tuple(notes)


def collect(path: Path, num_workers: int | None = None, sidecar_bytes: int = SIDECAR_BYTES) -> Collected:
    """Columns of a requests.jsonl, plain or packed. `num_workers` defaults to the cores this process may use.

    Raises StoreError when the file is missing or unreadable, or there is no space for the sidecar.
    """
    found = store.present(path) or path
    try:
        status = found.stat()
        if status.st_size < sidecar_bytes or found.suffix == store.PACKED:
            part = decode(store.lines(path))
            return Collected(Columns(**part.arrays), _summary([part], status), path)
        return _through_sidecar(path, status, num_workers or len(os.sched_getaffinity(0)))
    except OSError as error:
        raise StoreError(f"{error.filename or path} cannot be used ({error.strerror}); check it.") from error


def _through_sidecar(path: Path, status: os.stat_result, num_workers: int) -> Collected:
    folder = path.parent / SIDECAR
    found = _load(folder, status)
    if found:
        return found
    made = Path(
        tempfile.mkdtemp(prefix=SIDECAR, dir=path.parent if os.access(path.parent, os.W_OK) else None)
    )
    _make(path, status, made, num_workers)
    if made.parent == path.parent:
        shutil.rmtree(folder, ignore_errors=True)
        made = made.rename(folder)
    loaded = _load(made, status)
    if loaded is None:
        raise StoreError(f"{path} changed while it was read; compare again when the run has ended.")
    return loaded


def _make(path: Path, status: os.stat_result, folder: Path, num_workers: int) -> None:
    """Fills `folder` from the file, a byte range per worker."""
    ranges = list(_ranges(path, status.st_size, num_workers))
    one_in = 1 << (status.st_size // SAMPLE_BYTES).bit_length()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=num_workers, mp_context=context) as pool:
        jobs = [
            pool.submit(decode_to_files, path, span, (folder, number), one_in)
            for number, span in enumerate(ranges)
        ]
        parts = [job.result() for job in jobs]
    for name, kind in FIELDS.items():
        _join(folder, name, kind, len(parts))
    _concatenate(folder, "sample", len(parts), (folder / "sample.jsonl").open("wb"))
    (folder / "summary.json").write_bytes(msgspec.json.encode(_summary(parts, status)))


def _ranges(path: Path, size: int, num: int) -> Iterator[tuple[int, int]]:
    """Byte ranges of whole lines."""
    with path.open("rb") as file:
        start = 0
        for index in range(1, num + 1):
            file.seek(max(start, size * index // num - 1))
            file.readline()
            end = min(file.tell(), size) if index < num else size
            if end > start:
                yield start, end
            start = end


def _join(folder: Path, name: str, kind: str, num_parts: int) -> None:
    """The parts of one column as one .npy file."""
    size = sum((folder / f"{name}.{number}").stat().st_size for number in range(num_parts))
    shape = (size // np.dtype(kind).itemsize,)
    whole = (folder / f"{name}.npy").open("wb")
    np.lib.format.write_array_header_1_0(
        whole, {"descr": np.dtype(kind).str, "fortran_order": False, "shape": shape}
    )
    _concatenate(folder, name, num_parts, whole)


def _concatenate(folder: Path, name: str, num_parts: int, whole: IO[bytes]) -> None:
    """Moves the parts to the end of `whole` and closes it."""
    with whole:
        for number in range(num_parts):
            part = folder / f"{name}.{number}"
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole, 1 << 24)
            part.unlink()


def _load(folder: Path, status: os.stat_result) -> Collected | None:
    """The sidecar, when it is of this very file."""
    try:
        summary = msgspec.json.decode((folder / "summary.json").read_bytes(), type=Summary)
        if (summary.size, summary.mtime_ns) != (status.st_size, status.st_mtime_ns):
            return None
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in FIELDS}
    except (OSError, ValueError, msgspec.MsgspecError):
        return None
    return Collected(Columns(**arrays), summary, folder / "sample.jsonl")


def _summary(parts: list[Part], status: os.stat_result) -> Summary:
    errors: Counter[str] = Counter()
    for part in parts:
        errors.update(part.errors)
    return Summary(
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        num=sum(p.num for p in parts),
        errors=dict(errors.most_common()),
        num_without_usage=sum(p.num_without_usage for p in parts),
        num_backwards=sum(p.num_backwards for p in parts),
        bad_lines=sum(p.bad_lines for p in parts),
        first_bad=next((p.first_bad for p in parts if p.first_bad), ""),
        truncated=parts[-1].truncated if parts else False,
    )
