"""The verbs on the experiment log: list, show, note, sign, check."""

from __future__ import annotations

import getpass
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.errors import InputError, StoreError
from harness.escape import plain
from harness.host import environment
from harness.reporting import bundle, log
from harness.reporting.cells import number
from harness.reporting.log import Entry
from harness.schema import LoggedRow
from harness.sealing import order

FILTERS = ("variant", "model", "verdict", "num")
_SHOWN = 10
_SIGNED = "results now: sha256 "


def run(path: Path, results: Path, words: Sequence[str]) -> tuple[str, int]:
    """`log [show ID | note ID TEXT | sign ID REASON | check | TEXT | variant= model= verdict= num=]`.

    What is to be said, and the exit status: 1 when `check` found something.

    Raises InputError for words that are not understood, StoreError when the log cannot be used.
    """
    if list(words[:1]) == ["check"]:
        found = check(path, results)
        return "\n".join(found) or "Every entry's results are there and unchanged.", int(bool(found))
    return _answer(path, results, words), 0


def _answer(path: Path, results: Path, words: Sequence[str]) -> str:
    first, rest = (words[0], list(words[1:])) if words else ("list", [])
    if first == "show":
        return show(path, rest[0] if rest else "last")
    if first == "note":
        return note(path, rest[0] if rest else "", " ".join(rest[1:]))
    if first == "sign":
        return sign(path, results, rest[0] if rest else "", " ".join(rest[1:]))
    if first == "list" or "=" in first.split(" ")[0]:
        return listing(path, rest if first == "list" else list(words))
    return note(path, "", " ".join(words))


def listing(path: Path, filters: Sequence[str] = ()) -> str:
    """One block per entry, newest first. Raises InputError for an unknown filter."""
    wanted = dict(word.partition("=")[::2] for word in filters)
    unknown = [key for key in wanted if key not in FILTERS]
    if unknown:
        raise InputError(
            f"The log has no filter {unknown[0]!r}; there are: {', '.join(FILTERS)} (key=value)."
        )
    num = wanted.pop("num", str(_SHOWN))
    if not num.isdigit():
        raise InputError(f"num={num} is not a whole number; correct it.")
    found = [e for e in log.newest_first(path) if _matches(e, wanted)]
    blocks = [_summary(entry) for entry in found[: int(num)]]
    left = len(found) - len(blocks)
    if left > 0:
        blocks.append(f"{left} older entries; show more with num={len(found)}")
    return "\n\n".join(blocks) or "The log has no such entry."


def show(path: Path, run_id: str) -> str:
    """An entry as it stands in the log, with its notes."""
    entry = log.find(path, run_id)
    notes = [f"Note of {n.date} by {n.author}:\n{n.text}" for n in entry.notes]
    return "\n\n".join([entry.text.strip(), *notes])


def note(path: Path, run_id: str, text: str) -> str:
    """Appends a note, signed with the git user's or the login's name."""
    log.note(path, run_id, text, author=author(), date=environment.now())
    return f"Appended to {path.name}."


def sign(path: Path, results: Path, run_id: str, reason: str) -> str:
    """Appends a note with the hash of an entry's results as they are now: they were changed on purpose.

    Raises InputError without a reason or for an unknown entry, StoreError for results that are missing.
    """
    if not run_id or not reason.strip():
        raise InputError("Say which entry and why its results changed: just log sign ID 'reason'.")
    entry = log.find(path, run_id)
    digest = bundle.digest(results / entry.run_id)
    return note(path, entry.run_id, f"{reason.strip()}\n\n{_SIGNED}{digest}")


def signed(entry: Entry) -> str:
    """The sha256 its results must have: that of its last signing note, else the entry's own; "" = none."""
    later = [
        line.removeprefix(_SIGNED).strip()
        for n in entry.notes
        for line in n.text.splitlines()
        if n.place > entry.place and line.startswith(_SIGNED)
    ]
    return later[-1] if later else entry.facts.bundle if entry.facts else ""


def check(path: Path, results: Path) -> list[str]:
    """A sentence per run whose results are missing, changed since they were signed, or cannot be checked, and
    per seal that was broken, never closed, or whose question was asked again."""
    problems = []
    newest: dict[str, Entry] = {entry.run_id: entry for entry in log.entries(path)}
    for entry in newest.values():
        problems += _problem(entry, results)
    return problems + order.breaches(path, results)


def author() -> str:
    """Who signs: git's user.name, else the login."""
    git = shutil.which("git")
    name = ""
    if git:
        asked = [git, "config", "user.name"]
        name = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=30).stdout.strip()
    try:
        return name or getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _problem(entry: Entry, results: Path) -> list[str]:
    if entry.facts is None:
        return [f"{entry.run_id}: its machine-readable part is missing, damaged or of another version"]
    if not signed(entry):
        return [f"{entry.run_id}: was logged without a hash of its results"]
    try:
        same = bundle.digest(results / entry.run_id) == signed(entry)
    except StoreError as error:
        return [f"{entry.run_id}: {error.message}"]
    return [] if same else [f"{entry.run_id}: its results changed since they were logged"]


def _matches(entry: Entry, wanted: dict[str, str]) -> bool:
    if not wanted:
        return True
    if entry.facts is None:
        return False
    rows = entry.facts.rows
    tests: dict[str, Callable[[str], bool]] = {
        "variant": lambda v: any(v in row.variant for row in rows),
        "model": lambda v: v in entry.facts.recipe.model if entry.facts else False,
        "verdict": lambda v: any(row.verdict.casefold() == v.casefold() for row in rows),
    }
    return all(tests[key](value) for key, value in wanted.items())


def _summary(entry: Entry) -> str:
    head = f"{entry.run_id}  {entry.date}"
    if entry.facts is None:
        return f"{head}\n  this version cannot read its data; `just log show {entry.run_id}` shows the text"
    lines = [head, f"  {plain(entry.facts.recipe.question)}", *(_row(row) for row in entry.facts.rows)]
    lines += [f"  note of {n.date} by {n.author}: {plain(n.text)}" for n in entry.notes]
    return "\n".join(lines)


def _row(row: LoggedRow) -> str:
    rate = f"{number(row.output_throughput.mean)} tok/s" if row.output_throughput else row.status
    marks = [row.verdict or "not verified", "INVALID" if row.invalid else ""]
    return "    " + plain(f"{row.variant} {row.scenario}: {rate}, {', '.join(filter(None, marks))}")
