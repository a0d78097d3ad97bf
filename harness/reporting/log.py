"""EXPERIMENT_LOG.md: written once, appended for ever. An entry is a run; a note names its entry.

Every append is one write to a file opened O_APPEND, under a POSIX lock (which network file systems
honour between machines), so concurrent writers lose nothing. No function here rewrites the file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from harness.errors import InputError, StoreError
from harness.escape import block, markdown, plain
from harness.reporting import pairs, stops
from harness.reporting.cells import DEFINITIONS
from harness.reporting.report import alarms, answers, failures, launched, markdown_table
from harness.schema import (
    Comparison,
    Environment,
    LogFacts,
    LoggedMachine,
    LoggedRow,
    Recipe,
    Row,
)
from harness.sealing.nouns import Closing
from harness.secrets import redacted_recipe

_HEADING = re.compile(
    r"^## (?P<date>\S+Z) (?:note(?: on (?P<about>\S+))? by (?P<author>.+)"
    r"|seal of (?P<sealed>\S+)|(?P<run>\S+))$"
)
_LONGEST = 1200
"""Characters of a line of a seal."""
_FACTS = re.compile(r"^```json\n(.+)\n```$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Note:
    """A remark appended later."""

    date: str
    author: str
    about: str
    """Run id of the entry it belongs to; "" = the log as a whole."""
    text: str
    place: int = 0
    """How many entries stand above it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One run in the log."""

    run_id: str
    date: str
    text: str
    """The entry as written, hand-written notes included."""
    facts: LogFacts | None
    """None when its machine-readable part is missing, damaged or of a later version."""
    notes: tuple[Note, ...] = ()
    place: int = 0
    """How many entries stand above it."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A seal in the log: what a run promised before its first launch."""

    run_id: str
    """Whose seal it says it is."""
    date: str
    text: str
    """The seal, JSON as written; "" when it is missing."""
    place: int
    """How many entries stand above it."""
    before: str
    """chain() of what stands above it."""


def entry(
    comparison: Comparison,
    environment: Environment,
    recipe: Recipe,
    *,
    bundle: str = "",
    closing: Closing | None = None,
) -> str:
    """The Markdown of one entry. `bundle` is the sha256 of the results, from reporting.bundle.digest."""
    facts = _facts(comparison, environment, recipe, bundle)
    if closing:
        facts = msgspec.structs.replace(facts, seal=closing.seal, kept=closing.kept)
    dirty = " + uncommitted changes" * environment.harness_dirty
    model = recipe.model or "each variant's default"
    lines = [
        f"## {environment.started_at} {comparison.run_id}",
        "",
        f"- question: {markdown(comparison.question)}",
        f"- variants: {markdown(', '.join(recipe.variants))}; model: {markdown(model)}",
        f"- commit: {environment.harness_commit}{dirty}",
        f"- machine: {markdown(machine(environment))}",
        f"- results: sha256 {bundle or 'not computed'}",
        *([f"- seal: sha256 {closing.seal}"] if closing else []),
        "",
        "Answer:",
        *(f"- {line}" for line in answers(comparison)),
        "",
        markdown_table(comparison),
        "",
        *_part("Seal", list(closing.lines) if closing else []),
        *_part("Failures", failures(comparison.rows)),
        *_part("Alarms", alarms(comparison.rows)),
        *_part("Pairs", pairs.told_in_full(comparison)),
        *_part("Silences", stops.lines(comparison.rows)),
        *_part("Remarks", list(comparison.notes)),
        *(["What ran:", "", launched(comparison), ""] if comparison.ran else []),
        "<details><summary>For replay and history</summary>",
        "",
        f"```json\n{msgspec.json.encode(facts).decode()}\n```",
        "",
        "</details>",
        "",
        "### Notes",
        "",
    ]
    return "\n".join(lines) + "\n"


def note_text(date: str, author: str, text: str, about: str = "") -> str:
    """The Markdown of a note; every line is quoted, so that nothing in it can pass for an entry."""
    quoted = "\n".join(f"> {line}".rstrip() for line in block(text).splitlines())
    on = f" on {about}" if about else ""
    return f"## {date} note{on} by {plain(author) or 'unknown'}\n\n{quoted}\n"


def sealed_text(date: str, run_id: str, lines: Sequence[str], seal: str) -> str:
    """The Markdown of a seal; `seal` is its JSON, one line."""
    told = "\n".join(f"- {markdown(line, _LONGEST)}" for line in lines)
    return f"## {date} seal of {run_id}\n\n{told}\n\n```json\n{seal}\n```\n"


def chain(text: str) -> str:
    """sha256 over heading and machine-readable part of every entry and seal of a log, in order.

    What people write between them may change.
    """
    total = hashlib.sha256()
    for heading, body in _blocks(text):
        if heading["run"] or heading["sealed"]:
            total.update(f"{heading.group(0)}\n{_json(body)}\n".encode())
    return total.hexdigest()


def append(path: Path, text: str | Callable[[str], str]) -> None:
    """Adds `text` at the end, all of it or nothing; the first append also writes the log's title.

    A function is given chain() of the log as it stands, which nobody changes meanwhile. Raises StoreError
    when the file cannot be written or the disk is full.
    """
    with _opened(path) as fd:
        fcntl.lockf(fd, fcntl.LOCK_EX)
        _append_locked(fd, text if isinstance(text, str) else text(chain(_held(fd))))


def check(path: Path) -> None:
    """Raises StoreError when append() could not open the log."""
    with _opened(path):
        pass


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            yield fd
        finally:
            os.close(fd)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be appended to ({error.strerror}); make it writable or set HARNESS_LOG."
        ) from error


def note(path: Path, run_id: str, text: str, *, author: str, date: str) -> None:
    """Appends a signed, dated note; `run_id` "" makes it one on the log as a whole.

    Raises InputError for an unknown entry or an empty note, StoreError when the log cannot be written.
    """
    if not text.strip():
        raise InputError("The note is empty; write it after the id: just log note ID 'text'.")
    about = find(path, run_id).run_id if run_id else ""
    append(path, note_text(date, author, text, about))


def entries(path: Path) -> list[Entry]:
    """All entries in file order, each with its notes. A missing file is an empty log.

    Raises StoreError when the file exists and cannot be read.
    """
    found, notes = _read(path)
    return [replace(e, notes=tuple(n for n in notes if n.about == e.run_id)) for e in found]


def notes(path: Path) -> list[Note]:
    """All notes in file order, those on runs without an entry too. Raises as entries() does."""
    return _read(path)[1]


def _read(path: Path) -> tuple[list[Entry], list[Note]]:
    found: list[Entry] = []
    notes: list[Note] = []
    for heading, body in _blocks(_text(path)):
        if heading["run"]:
            text = f"{heading.group(0)}\n{body}"
            found.append(Entry(heading["run"], heading["date"], text, _parse_facts(body), place=len(found)))
        elif not heading["sealed"]:
            words = "\n".join(line.removeprefix(">").removeprefix(" ") for line in body.strip().split("\n"))
            notes.append(Note(heading["date"], heading["author"], heading["about"] or "", words, len(found)))
    return found, notes


def seals(path: Path) -> list[Sealed]:
    """All seals in file order. Raises StoreError when the file exists and cannot be read."""
    found: list[Sealed] = []
    place, above = 0, ""
    for heading, body in _blocks(_text(path)):
        if heading["sealed"]:
            found.append(Sealed(heading["sealed"], heading["date"], _json(body), place, chain(above)))
        place += bool(heading["run"])
        above += f"{heading.group(0)}\n{body}"
    return found


def about(path: Path, run_id: str) -> Iterator[str]:
    """The Markdown of every seal, entry and note of a run, in file order."""
    for heading, body in _blocks(_text(path)):
        if run_id in (heading["run"], heading["sealed"], heading["about"]):
            yield f"{heading.group(0)}\n{body}"


def newest_first(path: Path) -> list[Entry]:
    """All entries, newest first."""
    return sorted(entries(path), key=lambda e: e.date, reverse=True)


def find(path: Path, run_id: str) -> Entry:
    """The newest entry of that id, or of the one id that begins so; "last" is the newest of all.

    Raises InputError that lists what exists.
    """
    known = newest_first(path)
    if run_id == "last" and known:
        return known[0]
    exact = [e for e in known if e.run_id == run_id]
    matching = exact or [e for e in known if e.run_id.startswith(run_id)]
    if len({e.run_id for e in matching}) == 1:
        return matching[0]
    some = ", ".join(dict.fromkeys(e.run_id for e in (matching or known)[:8])) or "none: the log is empty"
    what = "names several entries" if matching else "names no entry"
    raise InputError(f"{run_id!r} {what} of {path.name}; write one of: {some}.")


def _append_locked(fd: int, text: str) -> None:
    size = os.fstat(fd).st_size
    data = (_TITLE if not size else _separator(fd, size)).encode() + text.encode()
    written = os.write(fd, data)
    if written != len(data):
        os.ftruncate(fd, size)
        raise OSError(errno.ENOSPC, "the disk is full")


def _separator(fd: int, size: int) -> str:
    """What makes the next heading start after one empty line, whatever a person left at the end."""
    tail = os.pread(fd, 2, max(0, size - 2))
    return "" if tail == b"\n\n" else "\n" if tail.endswith(b"\n") else "\n\n"


def _held(fd: int) -> str:
    """The log through the descriptor that is locked: closing another one would end the lock."""
    return os.pread(fd, os.fstat(fd).st_size, 0).decode(errors="replace")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}); make it readable.") from error


def _blocks(text: str) -> list[tuple[re.Match[str], str]]:
    """(heading, body) of every dated block; other text before the first one is skipped."""
    blocks: list[tuple[re.Match[str], list[str]]] = []
    for line in text.split("\n"):
        heading = _HEADING.match(line)
        if heading:
            blocks.append((heading, []))
        elif blocks:
            blocks[-1][1].append(line)
    return [(heading, "\n".join(lines) + "\n") for heading, lines in blocks]


def _json(body: str) -> str:
    """The machine-readable part of a block, "" without one."""
    found = _FACTS.search(body)
    return found.group(1) if found else ""


def _parse_facts(body: str) -> LogFacts | None:
    found = _json(body)
    try:
        return _renamed(msgspec.json.decode(found, type=LogFacts)) if found else None
    except msgspec.MsgspecError:
        return None


def _renamed(facts: LogFacts) -> LogFacts:
    """Its rows under the names that their workloads have today."""
    names = {spec.name: spec.label for spec in facts.recipe.workloads if spec.of_old and not spec.title}
    rows = []
    for row in facts.rows:
        name, at, load = row.scenario.partition("@")
        rows.append(msgspec.structs.replace(row, scenario=names.get(name, name) + at + load))
    return msgspec.structs.replace(facts, rows=tuple(rows))


def _part(title: str, lines: list[str]) -> list[str]:
    return [f"{title}:", *(f"- {markdown(line)}" for line in lines), ""] if lines else []


def machine(environment: Environment) -> str:
    """CPU, memory, accelerators, system and host in one line."""
    gpus = [gpu.name for gpu in environment.gpus]
    cpu = f"{environment.cpu_model}, {environment.num_cpus} cores, {environment.memory_gb:.0f} GB"
    counted = ", ".join(f"{gpus.count(name)}x {name}" for name in dict.fromkeys(gpus))
    return f"{cpu}; {counted or 'no accelerator'}; {environment.os}; host {environment.hostname_hash}"


def machine_of(environment: Environment) -> LoggedMachine:
    """The machine as the log remembers it."""
    return LoggedMachine(
        cpu_model=environment.cpu_model,
        num_cpus=environment.num_cpus,
        accelerators=tuple(gpu.name for gpu in environment.gpus),
        driver=", ".join(dict.fromkeys(gpu.driver for gpu in environment.gpus if gpu.driver)),
        os=environment.os,
        docker=environment.docker,
    )


def _facts(comparison: Comparison, environment: Environment, recipe: Recipe, bundle: str) -> LogFacts:
    return LogFacts(
        run_id=comparison.run_id,
        date=environment.started_at,
        commit=environment.harness_commit,
        host=environment.hostname_hash,
        recipe=redacted_recipe(recipe),
        rows=tuple(logged(row) for row in comparison.rows),
        image_digests=environment.image_digests,
        bundle=bundle,
        labels=comparison.labels,
        machine=machine_of(environment),
    )


def logged(row: Row) -> LoggedRow:
    """A row as the log remembers it."""
    m = row.metrics
    return LoggedRow(
        variant=row.variant,
        scenario=row.scenario,
        status=row.status,
        verdict=row.agreement.verdict if row.agreement else "",
        invalid=row.invalid,
        num_gpus=row.num_gpus,
        output_throughput=row.output_throughput,
        ttft_p50_s=m.ttft_s.p50 if m and m.ttft_s and not m.delivered else None,
        tpot_p50_s=m.tpot_s.p50 if m and m.tpot_s and not m.delivered else None,
    )


_TITLE = (
    "# Experiment log\n\nAppend-only: one entry per run, failures included. `just log` lists it, "
    "`just log note ID 'text'` appends a note, `just log check` finds results that changed.\n\n"
    + "".join(f"- {markdown(term)}: {markdown(meaning)}\n" for term, meaning in DEFINITIONS)
    + "\n"
)
