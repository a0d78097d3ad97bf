"""What verification costs: seconds of a whole bench by what is going on, and the share of checks.

usage: python -m benchmarks.verification_cost [WORD ...]     the words of `just bench`; without any: all

Runs and log go where HARNESS_RESULTS and HARNESS_LOG say. A stage lasts until the next begins. "verdicts" is
everything after the last record is packed, the comparison and its report with it.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict

from harness import bench, claim, store
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


class Timed(Progress):
    """Notes how long each stage lasted."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = defaultdict(float)
        self._kind, self._since = OTHER, time.monotonic()

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
        now = time.monotonic()
        self.seconds[self._kind] += now - self._since
        self._kind, self._since = kind, now


def main(words: list[str]) -> None:
    """One bench and one line per kind of stage."""
    machine = probe()
    recipe, run_id = recipe_of(words or ["all"], machine)
    folder = store.run_folder(run_id)
    began = time.monotonic()
    progress = Timed()
    with progress, claim.alone(folder, progress.note):
        bench.bench(recipe, machine, folder, progress)
        progress.turn(OTHER)
    whole = time.monotonic() - began
    for kind, seconds in sorted(progress.seconds.items(), key=lambda pair: -pair[1]):
        print(f"{seconds:8.1f} s  {seconds / whole:6.1%}  {kind}")
    print(f"{whole:8.1f} s  of it all")


if __name__ == "__main__":
    main(sys.argv[1:])
