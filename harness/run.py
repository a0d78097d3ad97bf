"""Engines visited in turn: launch, prove the label, measure, replay, stop."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType

from harness import extras, server, store
from harness.correctness.preflight import preflight
from harness.errors import HarnessError, StoreError
from harness.host import calibration
from harness.label import every_rank
from harness.planned import TRACES, Planned, launching
from harness.schema import Attestation, Spent, Trial, TrialResult
from harness.sealing import engine_files
from harness.secrets import redacted_launch
from harness.trial import Visit, measure


def visits(planned: tuple[Planned, ...], restarts: Iterable[int]) -> Iterator[tuple[Planned, int]]:
    """(variant, restart) in interleaved order A B, B A, A B ...: slow drift of the host hits all alike."""
    for restart in restarts:
        ordered = planned if restart % 2 else tuple(reversed(planned))
        for chosen in ordered:
            yield chosen, restart


def carry_out(visit: Visit) -> None:
    """One server life: launch, prove the label, run what is not done yet, stop.

    An engine that dies takes the trial it died in; it is launched again for the rest. So is one whose prefix
    cache nothing else empties, after every scenario.
    """
    pending, begun = visit.pending(), time.monotonic()
    if not pending:
        return
    while pending:
        left = _launch(visit, pending)
        if len(left) == len(pending):
            raise HarnessError(f"{visit.planned.variant.name}: a launch measured nothing; this is a defect.")
        pending = left
    store.write(visit.folder / "spent.json", Spent(seconds=time.monotonic() - begun))


def _launch(visit: Visit, pending: list[Trial]) -> list[Trial]:
    """Trials still to do after one launch; those it touched have their trial.json."""
    folder = visit.folder
    folder.mkdir(parents=True, exist_ok=True)
    chosen = launching(visit.planned, server.port_for(visit.planned.launch), folder)
    chosen = engine_files.held(chosen, folder)
    if chosen.variant.traces:
        (folder / TRACES).mkdir(exist_ok=True)
    store.write(folder / "launch.json", redacted_launch(chosen.launch))
    log_path = folder / "server.log"
    store.write(folder / "calibration.json", calibration.calibrate(chosen.launch))
    try:
        with server.serving(chosen.launch, log_path, visit.run.name, visit.progress.stage) as running:
            evidence = running.evidence()
            store.write(folder / "evidence.json", server.storable(evidence))
            keep_attestation(folder, every_rank.attest_all(visit.effective, evidence, visit.planned.variant))
            visit.progress.stage(f"{visit.planned.variant.name}: pre-flight")
            preflight(folder, running, chosen, visit.recipe.request_timeout_s)
            with contextlib.ExitStack() as around:
                for extra in visit.extras("around"):
                    around.enter_context(extra(visit, running))
                left = serve_trials(visit, pending, running)
            visit.replay(running)
            for after in visit.extras("after_visit") if not left else ():
                after(visit, running)
        for afterwards in visit.extras("afterwards"):
            afterwards(visit)
        return left
    except StoreError:
        # Nothing the engine did: a rerun with the same run id measures these trials.
        raise
    except HarnessError as error:
        done = {t.scenario for t in pending if visit.result_of(t)}
        for trial in pending:
            if trial.scenario not in done:
                visit.finish(
                    trial,
                    TrialResult(trial=trial, status="failed", reason=error.message, evidence=error.details),
                )
    return []


def serve_trials(visit: Visit, pending: list[Trial], running: server.Running) -> list[Trial]:
    """Measure one trial after the other; those that need another launch are left."""
    for index, trial in enumerate(pending):
        search = trial.load.search
        (extras.named(search).measure if search else measure)(visit, trial, running)
        for after in visit.extras("after_trial"):
            after(visit, trial, running)
        if running.dead() or visit.planned.one_scenario_per_launch:
            return pending[index + 1 :]
    return []


def keep_attestation(folder: Path, attested: Attestation) -> None:
    """attestation.json of a restart that took several launches: of the first whose label did not hold."""
    path = folder / "attestation.json"
    if not path.exists() or store.read(path, Attestation).valid:
        store.write(path, attested)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: partial results kept, engine stopped."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
