"""Lines of a requests.jsonl decoded to column arrays: the inner loop of the collector."""

from __future__ import annotations

import contextlib
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from harness.escape import plain
from harness.schema import RequestRecord

FIELDS = {
    "ok": "|b1",
    "due_at_s": "<f8",
    "sent_at_s": "<f8",
    "first_at_s": "<f8",
    "last_at_s": "<f8",
    "input_len": "<i8",
    "output_len": "<i8",
    "num_chunks": "<i8",
    "icl_s": "<f4",
}
"""Column of harness.numbers.columns.Columns -> type on disk. Gaps are in single precision: 1 ns at 10 ms."""
_BATCH = 4096


class _Line(msgspec.Struct):
    """The fields of a RequestRecord that statistics use; msgspec skips the others without decoding them."""

    request_id: str
    due_at_s: float = 0.0
    sent_at_s: float = 0.0
    content_at_s: list[float] = msgspec.field(default_factory=list)
    prompt_len: int = 0
    input_len: int = 0
    output_len: int = 0
    usage: bool = False
    error_kind: str = ""
    error: str = ""


class Sample(NamedTuple):
    """Where whole records go, and of how many requests one: chosen by id, so the same for all variants."""

    one_in: int
    file: IO[bytes]


@dataclass(slots=True)
class Part:
    """What one byte range of the file held."""

    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    """Empty when the columns went to files."""
    num: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    num_without_usage: int = 0
    num_backwards: int = 0
    bad_lines: int = 0
    first_bad: str = ""
    truncated: bool = False


def decode(lines: Iterable[bytes]) -> Part:
    """Columns of the lines, in memory."""
    part = Part()
    part.arrays = tabulate(_records(lines, part), part)
    return part


def tabulate(records: Iterable[_Line | RequestRecord], part: Part) -> dict[str, NDArray[Any]]:
    """FIELDS -> one array each, requests in order; what is odd about them is counted in `part`."""
    batches = list(_batches(records, part))
    empty = {name: np.empty(0, dtype=kind) for name, kind in FIELDS.items()}
    return {name: np.concatenate([empty[name], *(b[name] for b in batches)]) for name in FIELDS}


def decode_to_files(path: Path, span: tuple[int, int], target: tuple[Path, int], one_in: int) -> Part:
    """Columns of a byte range as raw files <folder>/<column>.<number>; memory stays at one batch.

    Whole records of one request in `one_in` go to <folder>/sample.<number>.
    """
    part = Part()
    folder, number = target
    with contextlib.ExitStack() as stack:
        names = (*FIELDS, "sample")
        files = {n: stack.enter_context((folder / f"{n}.{number}").open("wb")) for n in names}
        lines = _range(stack.enter_context(path.open("rb")), span)
        for batch in _batches(_records(lines, part, Sample(one_in, files["sample"])), part):
            for name, values in batch.items():
                files[name].write(values.data)
    return part


def _batches(lines: Iterable[_Line | RequestRecord], part: Part) -> Iterator[dict[str, NDArray[Any]]]:
    batch: list[_Line | RequestRecord] = []
    times = array("d")
    for line in lines:
        times.extend(line.content_at_s)
        part.errors[line.error_kind] += bool(line.error)
        part.num_without_usage += not (line.usage or line.error)
        batch.append(line)
        if len(batch) == _BATCH:
            yield _columns(batch, times, part)
            batch, times = [], array("d")
    yield _columns(batch, times, part)
    part.errors = +part.errors


def _range(file: IO[bytes], span: tuple[int, int]) -> Iterator[bytes]:
    """The lines that begin in the byte range."""
    file.seek(span[0])
    position = span[0]
    for raw in file:
        if position >= span[1]:
            return
        position += len(raw)
        yield raw


def _records(lines: Iterable[bytes], part: Part, sample: Sample | None = None) -> Iterator[_Line]:
    """Records of the lines; what cannot be read is counted in `part`."""
    decoder = msgspec.json.Decoder(_Line)
    for raw in lines:
        try:
            line = decoder.decode(raw)
        except msgspec.MsgspecError as error:
            if not raw.endswith(b"\n"):
                part.truncated = True
            elif raw.strip():
                part.bad_lines += 1
                part.first_bad = part.first_bad or f"{plain(raw.decode(errors='replace'), 60)}: {error}"
            continue
        if sample and zlib.crc32(line.request_id.encode()) % sample.one_in == 0:
            sample.file.write(raw)
        yield line


def _columns(batch: list[_Line | RequestRecord], times: array[float], part: Part) -> dict[str, NDArray[Any]]:
    """Arrays of one batch; `times` are its chunk times, request after request."""
    flat = np.frombuffer(times, dtype=np.float64) if times else np.empty(0)
    counts = np.array([len(line.content_at_s) for line in batch], dtype=np.int64)
    ends = np.cumsum(counts)
    has = counts > 0
    first, last = np.full(len(batch), np.nan), np.full(len(batch), np.nan)
    first[has], last[has] = flat[(ends - counts)[has]], flat[ends[has] - 1]
    sent = np.array([line.sent_at_s for line in batch], dtype=np.float64)
    ok = np.array([not line.error for line in batch], dtype=np.bool_)
    owner = np.repeat(np.arange(len(batch)), counts)
    inner = owner[1:] == owner[:-1]
    gaps = np.diff(flat)[inner]
    gap_owner = owner[1:][inner]
    backwards = first < sent
    backwards[gap_owner[gaps < 0]] = True
    part.num += len(batch)
    part.num_backwards += int((backwards & ok).sum())
    ok &= ~backwards
    return {
        "ok": ok,
        "due_at_s": np.array([line.due_at_s for line in batch], dtype=np.float64),
        "sent_at_s": sent,
        "first_at_s": first,
        "last_at_s": last,
        "input_len": np.array([line.input_len or line.prompt_len for line in batch], dtype=np.int64),
        "output_len": np.array([line.output_len for line in batch], dtype=np.int64),
        "num_chunks": counts,
        "icl_s": gaps[ok[gap_owner]].astype(np.float32),
    }
