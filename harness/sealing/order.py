"""What the log shows of seals that were broken, forgotten, used twice or asked again. A sentence each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from harness.errors import StoreError
from harness.reporting import log
from harness.reporting.log import Entry, Sealed
from harness.sealing import claims, commitments
from harness.sealing.nouns import Seal


def breaches(path: Path, results: Path) -> list[str]:
    """Everything wrong with the seals of a log. Raises StoreError when the log cannot be read."""
    entries, seals = log.entries(path), log.seals(path)
    notes = log.notes(path)
    found: list[str] = []
    for sealed in seals:
        found += _seal(sealed, seals, entries)
        if not any(e.run_id == sealed.run_id for e in entries) and sealed.run_id not in {
            n.about for n in notes
        }:
            found.append(f"{sealed.run_id}: was sealed and never closed")
    found += [line for entry in entries for line in _entry(entry, seals, entries)]
    found += [line for run in dict.fromkeys(s.run_id for s in seals) for line in _kept(run, results, seals)]
    return [*dict.fromkeys(found), *_again(seals, entries)]


def read(sealed: Sealed) -> Seal | None:
    """None for a seal that is damaged or of a later version."""
    try:
        return msgspec.json.decode(sealed.text, type=Seal)
    except msgspec.MsgspecError:
        return None


def sha256(sealed: Sealed) -> str:
    """What its entry must name."""
    return hashlib.sha256(sealed.text.encode()).hexdigest()


def _seal(sealed: Sealed, seals: Sequence[Sealed], entries: Sequence[Entry]) -> Iterator[str]:
    seal, name = read(sealed), sealed.run_id
    if seal is None:
        yield f"{name}: its seal is missing, damaged or of another version"
        return
    if (seal.run_id, seal.sealed_at) != (name, sealed.date):
        yield f"{name}: its seal is that of {seal.run_id}, made {seal.sealed_at}: an old seal was used again"
    if seal.before != sealed.before:
        yield f"{name}: entries that stood in the log before its seal were removed, changed or put in later"
    if sum(one.run_id == name for one in seals) > 1:
        yield f"{name}: was sealed more than once"
    if any(e.run_id == name and e.place < sealed.place for e in entries):
        yield f"{name}: was logged before it was sealed"


def _entry(entry: Entry, seals: Sequence[Sealed], entries: Sequence[Entry]) -> Iterator[str]:
    facts = entry.facts
    if facts is None or not (facts.seal or facts.recipe.options.seal):
        return
    own = [one for one in seals if one.run_id == entry.run_id]
    if not own:
        yield f"{entry.run_id}: says that it was sealed, and the log has no seal of it"
        return
    if facts.seal not in {sha256(one) for one in own}:
        yield f"{entry.run_id}: its entry closes another seal than its own"
    seal = read(own[0])
    if seal and commitments.public(facts.recipe) != seal.recipe:
        yield f"{entry.run_id}: the recipe of its entry is not the one that was sealed"
    for later in entries:
        if later.run_id == entry.run_id and later.place > entry.place and later.facts:
            yield from (f"{entry.run_id}: {line}" for line in claims.replaced(facts.kept, later.facts.kept))


def _kept(run: str, results: Path, seals: Sequence[Sealed]) -> Iterator[str]:
    """What the run's own folder, where it is here, shows against its seal."""
    seal = next((found for one in seals if one.run_id == run for found in [read(one)] if found), None)
    folder = results / run
    if seal is None or not folder.is_dir():
        return
    try:
        yield from (f"{run}: {line}" for line in claims.breaches(folder, seal))
        if (folder / "comparison.json").exists():
            gone = claims.missing(seal, claims.trials(folder))
            yield from (f"{run}: {name} was sealed and has no result" for name in gone)
    except StoreError as error:
        yield f"{run}: {error.message}"


def _again(seals: Sequence[Sealed], entries: Sequence[Entry]) -> Iterator[str]:
    """Sealed questions that were measured more than once, sealed or not."""
    asked: dict[str, str] = {}
    for sealed in seals:
        if seal := read(sealed):
            asked.setdefault(seal.matter, sealed.run_id)
    for matter, first in asked.items():
        runs = [s.run_id for s in seals if (seal := read(s)) and seal.matter == matter]
        runs += [e.run_id for e in entries if e.facts and commitments.matter(e.facts.recipe) == matter]
        others = [run for run in dict.fromkeys(runs) if run != first]
        if others:
            yield (
                f"{first}: the sealed question was measured {len(others) + 1} times: {first}, "
                f"{', '.join(others)}; quote all of them, or none"
            )
