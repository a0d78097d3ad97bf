"""seal=true: what will be compared stands in the log before the first launch; the run's entry closes it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from harness import store
from harness.errors import HarnessError, InputError
from harness.host import environment
from harness.planned import Planned
from harness.reporting import log, logbook, publish
from harness.schema import Recipe
from harness.sealing import claims, promise
from harness.sealing.nouns import SEAL_FILE, WEIGHTS_AFTER, Seal, SealFile


@contextlib.contextmanager
def campaign(recipe: Recipe, run: Path, planned: tuple[Planned, ...]) -> Iterator[None]:
    """Seal a new run, hold a resumed one to its seal; an end without results is said in the log."""
    path = publish.log_path()
    if (run / SEAL_FILE).exists():
        _hold(run, store.read(run / SEAL_FILE, SealFile).seal)
    else:
        promise.seal(path, recipe, run, planned)
    try:
        yield
    except KeyboardInterrupt:
        store.pack(run)  # what is kept from now on is what the entry shows
        raise
    except HarnessError as error:
        text = f"Sealed run {run.name} was not finished: {error.message}"
        log.append(path, log.note_text(environment.now(), logbook.author(), text, run.name))
        raise
    finally:
        used = [one.model for one in planned if not one.skip and one.own_server]
        after = msgspec.json.format(msgspec.json.encode(promise.weights(used), order="sorted"), indent=1)
        store.write_text(run / WEIGHTS_AFTER, after.decode() + "\n")


def _hold(run: Path, seal: Seal) -> None:
    """Raises InputError when what is there is no longer what was sealed."""
    broken = claims.breaches(run, seal)
    if broken:
        raise InputError(
            f"Run {run.name} cannot go on under its seal: {broken[0]}; undo that, or ask under a new seal: "
            "leave run_id= out."
        )
