"""`just bundle RUN`: one file with everything that a run rests on, signed, and the program that checks it."""

from __future__ import annotations

import hashlib
import io
import os
import re
import socket
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from harness import compare, registry, store
from harness.errors import InputError
from harness.recipe import Words
from harness.reporting import log, publish, report
from harness.reporting.cells import COLUMNS, standings
from harness.schema import Comparison, TrialResult
from harness.sealing import signing, verify
from harness.secrets import is_secret

SUFFIX = ".bundle.tar.xz"
_LEFT_OUT = ("report.html",)
_TOKENS = re.compile(
    rb"\b(?:hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{16})\b"
)
"""What keys of well-known services look like, whoever put them there."""
_SHORTEST = 8
"""A shorter value of a secret variable would blot out words that are no secret."""


def run(words: Sequence[str]) -> list[str]:
    """`bundle [RUN] [key=FILE|none] [out=FILE]`: what was written, and what verify.py says of it.

    Raises InputError for a run without an entry in the log, or without a key to sign with.
    """
    given = Words(words)
    name, key, out = " ".join(given.plain), signing.key(given.take("key")), given.take("out")
    given.nothing_left("bundle", "key= and out=")
    folder = store.find_run(name)
    if not key:
        raise InputError(
            "A bundle is signed by your own SSH key: give key=FILE, $HARNESS_SIGNING_KEY or git's "
            "user.signingkey (`ssh-keygen -t ed25519` makes one), or key=none: nobody then vouches for it."
        )
    files = dict(sorted(contents(folder).items()))
    files["MANIFEST"] = manifest(files)
    if key != signing.NONE:
        files["MANIFEST.sig"] = signing.sign(files["MANIFEST"], key)
    target = Path(out) if out else folder.parent / f"{folder.name}{SUFFIX}"
    written(target, files)
    shown, problems = checked(target)
    size, digest = target.stat().st_size / 2**20, hashlib.sha256(target.read_bytes()).hexdigest()
    return [
        f"{target}: {len(files)} files, {size:.1f} MiB, sha256 {digest}",
        shown[-1],
        *(f"WRONG: {line}" for line in problems),
    ]


def checked(bundle: Path) -> tuple[list[str], list[str]]:
    """(what verify.py prints, what it finds wrong)."""
    looked: tuple[list[str], list[str]] = verify.check(verify.read(bundle))  # type: ignore[no-untyped-call]
    return looked


def manifest(files: dict[str, bytes]) -> bytes:
    """Lines as sha256sum writes them."""
    rows = (f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items()))
    return "".join(rows).encode()


def contents(run: Path) -> dict[str, bytes]:
    """Name in the bundle -> content of everything but manifest and signature. Raises InputError."""
    path, found = publish.log_path(), dict[str, bytes]()
    blocks = list(log.about(path, run.name))
    if not any(entry.run_id == run.name for entry in log.entries(path)):
        raise InputError(
            f"{path.name} has no entry of {run.name}: there is nothing that a bundle could prove."
        )
    for file in sorted(run.rglob("*")):
        name = file.relative_to(run).as_posix()
        hidden = any(part.startswith(".") for part in name.split("/")) or file.suffix == ".partial"
        if file.is_file() and not file.is_symlink() and not hidden and file.name not in _LEFT_OUT:
            content = file.read_bytes()
            found[f"run/{name}"] = blotted(content) if file.suffix == ".log" else refused(name, content)
    comparison = compare.without_records(run) or compare.compare(run)
    return {
        **found,
        "log.md": "\n".join(blocks).encode(),
        "told.json": msgspec.json.encode(summary(run, comparison)),
        "verify.py": Path(verify.__file__).read_bytes(),
    }


def summary(run: Path, comparison: Comparison) -> dict[str, object]:
    """What verify.py prints: the table in cells, as report.md has it, and the words around it.

    A row with `over` shows latencies and failures over all restarts; older bundles, the middle one's.
    """
    folders = _folders(run)
    rows = [
        {
            "variant": standing.row.variant,
            "folder": folders.get(standing.row.scenario, standing.row.scenario),
            "plateau": bool(standing.row.plateau),
            "over": "restarts",
            "cells": [report.markdown_cell(column, standing) for column in COLUMNS],
        }
        for _, group in standings(comparison.rows)
        for standing in group
    ]
    words = [f"- {c.scenario}: {c.words}" for c in comparison.contrasts]
    return {
        "above": [comparison.question, "", *(f"- {line}" for line in report.answers(comparison)), ""],
        "head": [column.title for column in COLUMNS],
        "rule": ["--:" if column.numeric else ":--" for column in COLUMNS],
        "rows": rows,
        "below": ["", *words, *(f"- {line}" for line in report.failures(comparison.rows)), ""],
    }


def _folders(run: Path) -> dict[str, str]:
    """Scenario -> the folder of its trials."""
    results = (store.read(path, TrialResult) for path in run.glob("*/r*/*/trial.json"))
    return {one.trial.scenario: one.trial.folder for one in results}


def written(target: Path, files: dict[str, bytes]) -> None:
    """A .tar.xz of the files, the same bytes for the same files. Raises StoreError."""
    with store.writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.partial")
        with tarfile.open(partial, "w:xz", preset=2) as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), 0o644
                tar.addfile(member, io.BytesIO(content))
        partial.replace(target)


def blotted(content: bytes) -> bytes:
    """A server's log without secrets, and without this machine's folders and name."""
    for secret in _secrets():
        content = content.replace(secret, b"***")
    places = ((str(registry.ROOT), b"."), (str(Path.home()), b"~"), (socket.gethostname(), b"HOST"))
    for place, instead in places:
        if len(place) >= _SHORTEST:
            content = content.replace(place.encode(), instead)
    return _TOKENS.sub(b"***", content)


def refused(name: str, content: bytes) -> bytes:
    """The content. Raises InputError when it holds a secret: evidence is not changed, so it is not given."""
    if _TOKENS.search(content) or any(secret in content for secret in _secrets()):
        raise InputError(
            f"{name} holds what looks like a key; nothing was bundled. Make that key invalid, and sign the "
            "run anew without it: just log sign RUN 'why'."
        )
    return content


def _secrets() -> Iterator[bytes]:
    """Values of this shell's secret variables, longest first."""
    values = {value for name, value in os.environ.items() if is_secret(name) and len(value) >= _SHORTEST}
    yield from (value.encode() for value in sorted(values, key=len, reverse=True))
