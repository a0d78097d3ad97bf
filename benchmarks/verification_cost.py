"""What verification costs: seconds of a whole bench by what is going on, and the share of checks.

usage: python -m benchmarks.verification_cost [WORD ...]             the words of `just bench`; none: all
       python -m benchmarks.verification_cost verify RUN VARIANT     a kept run's tokens, read again
       python -m benchmarks.verification_cost tokens RUN             how many a reference on a CPU reads of it

Runs and log go where HARNESS_RESULTS and HARNESS_LOG say. A stage lasts until the next begins. "verdicts" is
everything after the last record is packed, the comparison and its report with it. Beside seconds of the clock
stand those of CPU, of this process and all that it started: other work on the machine changes them less.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import psutil

from harness import bench, claim, store
from harness.correctness import verification, verify
from harness.correctness.replay import Sample
from harness.host.machine import probe
from harness.plan import recipe_of
from harness.progress import Progress
from harness.schema import Trial, TrialResult

KINDS = {
    "pre-flight": "pre-flight, known answers, determinism",
    "replay": "replay",
    "packing": "verdicts",
    "measuring": "timed parts",
    "warm-up": "warm-up",
}
OTHER = "starts, stops and the rest"


def cpu() -> float:
    """CPU seconds of this process and its descendants, those that have ended too."""
    whole = 0.0
    here = psutil.Process()
    for process in (here, *here.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            whole += times.user + times.system + times.children_user + times.children_system
    return whole


class Timed(Progress):
    """Notes how long each stage lasted."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = defaultdict(float)
        self.cpu_s: dict[str, float] = defaultdict(float)
        self._kind, self._since, self._cpu_since = OTHER, time.monotonic(), cpu()

    def stage(self, text: str) -> None:
        """The stage before has ended."""
        super().stage(text)
        self.turn(next((kind for word, kind in KINDS.items() if word in text), OTHER))

    def trial_begin(self, trial: Trial, total: int) -> None:
        """A timed part begins."""
        super().trial_begin(trial, total)
        self.turn(KINDS["measuring"])

    def trial_end(self, result: TrialResult) -> None:
        """It has ended."""
        super().trial_end(result)
        self.turn(OTHER)

    def turn(self, kind: str) -> None:
        """From now on it is `kind`."""
        now, used = time.monotonic(), cpu()
        self.seconds[self._kind] += now - self._since
        self.cpu_s[self._kind] += max(used - self._cpu_since, 0.0)
        self._kind, self._since, self._cpu_since = kind, now, used


def main(words: list[str]) -> None:
    """One bench, or the replay of a copy of a kept run; one line per kind of stage."""
    progress = Timed()
    began = time.monotonic()
    if words[:1] == ["tokens"]:
        return counted(Path(words[1]))
    if words[:1] == ["verify"]:
        replayed(Path(words[1]), words[2], progress)
    else:
        benched(words or ["all"], progress)
    progress.turn(OTHER)
    whole, used = time.monotonic() - began, sum(progress.cpu_s.values())
    for kind, seconds in sorted(progress.seconds.items(), key=lambda pair: -pair[1]):
        spent = progress.cpu_s[kind]
        print(f"{seconds:8.1f} s {seconds / whole:6.1%}  CPU {spent:7.1f} s {spent / used:6.1%}  {kind}")
    print(f"{whole:8.1f} s         CPU {used:7.1f} s  of it all")


def benched(words: list[str], progress: Timed) -> None:
    """What `just bench` does."""
    machine = probe()
    recipe, run_id = recipe_of(words, machine)
    folder = store.run_folder(run_id)
    with progress, claim.alone(folder, progress.note):
        bench.bench(recipe, machine, folder, progress)


def replayed(run: Path, reference: str, progress: Timed) -> None:
    """What `verify RUN --reference VARIANT` does."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(shutil.copytree(run, Path(place) / run.name))
        verify.run(copy, reference, progress)


def counted(run: Path) -> None:
    """Per scenario: tokens read, and those read again in the engine's precision and with each fault."""
    trials: dict[str, list[Sample]] = defaultdict(list)
    for folder in verification.trial_folders(run):
        trials[folder.name] += verification.cheap(verification.samples_of(run, folder))
    every = read_tokens = played_tokens = 0
    for name, samples in trials.items():
        asked = {(s.prompt_token_ids, s.output_token_ids, s.part): s for s in samples}.values()
        read, played = _tokens(asked), _tokens(s for s in asked if s.part)
        print(f"{name}: {len(asked)} outputs, {read:,} tokens, {played:,} of them played")
        every, read_tokens, played_tokens = every + len(asked), read_tokens + read, played_tokens + played
    print(f"{every} outputs, {read_tokens:,} tokens, {played_tokens:,} of them played")


def _tokens(samples: Iterable[Sample]) -> int:
    """Of outputs, and of prompts that several follow once."""
    chosen = list(samples)
    prompts = {s.prompt_token_ids for s in chosen}
    return sum(map(len, prompts)) + sum(len(s.output_token_ids) for s in chosen)


if __name__ == "__main__":
    main(sys.argv[1:])
