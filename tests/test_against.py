"""A run against an earlier one: which one, how far, what else changed, and when nothing is compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from harness import store
from harness.errors import InputError
from harness.history import against
from harness.reporting import log
from harness.schema import Calibration, Comparison, Environment, Gpu, Interval, Recipe
from tests.examples import COMPARISON, ENVIRONMENT, RECIPE
from tests.test_history import LABEL

ROWS = tuple(row for row in COMPARISON.rows if row.variant in ("engine-a", "engine-b"))[:2]
"""Of one scenario."""


class Runs:
    """A log with results beside it, run by run."""

    def __init__(self, root: Path) -> None:
        self.log, self.results = root / "LOG.md", root / "results"

    def add(self, day: int, speed: float = 1.0, recipe: Recipe = RECIPE, **machine: object) -> Path:
        run = self.results / f"run-{day}"
        rows = tuple(replace(row, output_throughput=times(row.output_throughput, speed)) for row in ROWS)
        version = f"1.{day}"
        labels = tuple(replace(LABEL, variant=row.variant, engine_version=version) for row in ROWS)
        comparison: Comparison = replace(COMPARISON, run_id=run.name, rows=rows, labels=labels)
        environment: Environment = replace(ENVIRONMENT, started_at=f"2026-11-{day:02}T00:00:00Z", **machine)
        store.write(run / "comparison.json", comparison)
        store.write(run / "environment.json", environment)
        taken = Calibration(taken_at="", cpu_mb_s=1000.0 * speed, memory_gb_s=10.0, load_average=0.0)
        store.write(run / "engine-a" / "r1" / "calibration.json", taken)
        log.append(self.log, log.entry(comparison, environment, recipe))
        return run


def times(rate: Interval | None, factor: float) -> Interval | None:
    return rate and Interval(mean=rate.mean * factor, low=rate.low * factor, high=rate.high * factor, num=3)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def test_last_is_the_newest_that_asked_the_same(runs: Runs) -> None:
    runs.add(1)
    runs.add(2)
    runs.add(3, recipe=replace(RECIPE, args=("--max-num-seqs", "99")))
    now = runs.add(
        4, 0.8, harness_commit="e" * 40, gpus=(Gpu(index=0, name="H200", memory_gb=1, driver="2"),)
    )
    head, *lines = against.remarks(runs.log, now, "last")
    assert head == "against run-2 of 2026-11-02T00:00:00Z:"
    text = "\n".join(lines)
    assert "engine-b at 1000-2000@c8: 1000 then, 800 output tok/s now (-20.0%, intervals apart)" in text
    assert "TTFT p50 ms 123 then, 123 now" in text
    assert "engine-a: version of engine: 1.2 then, 1.4 now" in text
    assert "commit: 0123abcd then, eeeeeeeeeeee now" in text and "driver: none then, 2 now" in text
    assert "another kind of host: A CPU, 2 cores then, A CPU, 2 cores; 1x H200 now" in text
    assert "host's sha256: 1000 MB/s then, 800 now (-20.0%)" in text
    assert text.count("commit:") == 1, "what the variants share is said once"


def test_an_entry_can_be_named(runs: Runs) -> None:
    runs.add(1)
    runs.add(2)
    now = runs.add(3)
    assert against.remarks(runs.log, now, "run-1")[0].startswith("against run-1 ")
    against.check(runs.log, "run-1")
    against.check(runs.log, "last")
    with pytest.raises(InputError, match="names no entry"):
        against.check(runs.log, "run-9")


@pytest.mark.parametrize(
    ("recipe", "lacking"),
    [
        (replace(RECIPE, env={"X": "2"}), "env.X=2"),
        (replace(RECIPE, options=replace(RECIPE.options, stream=False)), "stream=False"),
    ],
)
def test_what_was_not_asked_alike_is_not_compared(runs: Runs, recipe: Recipe, lacking: str) -> None:
    runs.add(1)
    now = runs.add(2, 0.5, recipe=recipe)
    (line,) = against.remarks(runs.log, now, "last")
    assert "no entry asked the same, so nothing was compared; run-1, which comes nearest" in line
    assert lacking in line
    assert "nothing was compared" in against.remarks(runs.log, now, "run-1")[0]


def test_the_first_run_says_so(runs: Runs) -> None:
    now = runs.add(1)
    assert against.remarks(runs.log, now, "last") == [
        "against=last: the log has no earlier run, so nothing was compared."
    ]
