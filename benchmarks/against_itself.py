"""A/A campaigns of real engines: how often does a variant beat itself, and is it ever judged wrong?

usage: python -m benchmarks.against_itself run FOLDER VARIANT SEEDS [WORD ...]
       python -m benchmarks.against_itself count FOLDER ...

`run` is `just aa VARIANT WORD ... seed=S` for each seed of FIRST-LAST that FOLDER does not hold whole;
runs and a log of their own stay in FOLDER. `count` prints, by variant, campaigns, primary comparisons, those
that were called faster or slower, rows and their words, and the bound that binomial chance puts on the rate
of false verdicts (95 %, one-sided, Clopper-Pearson, campaigns with any false verdict as events).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from scipy.special import betaincinv

from harness import compare, store
from harness.numbers.verdicts import decided
from harness.schema import Comparison

RESTARTS = 3
"""Of a side, as `just aa` has them unless told otherwise."""


class Tally(NamedTuple):
    """What campaigns of one variant said."""

    campaigns: int
    comparisons: int
    called: int
    wrong: int
    """Campaigns in which anything was called."""
    words: Counter[str]
    """Verdicts of rows; INVALID for rows that do not count."""

    @property
    def bound(self) -> float:
        """Upper 95 % bound of the rate of campaigns with a false verdict."""
        return float(betaincinv(self.wrong + 1, self.campaigns - self.wrong, 0.95)) if self.campaigns else 1.0


def tally(found: Sequence[Comparison]) -> Tally:
    """Counts over finished campaigns."""
    primary = [[c for c in one.contrasts if c.primary and c.p_value is not None] for one in found]
    called = [sum(map(decided, contrasts)) for contrasts in primary]
    return Tally(
        campaigns=len(found),
        comparisons=sum(map(len, primary)),
        called=sum(called),
        wrong=sum(map(bool, called)),
        words=_words(found),
    )


def _words(found: Iterable[Comparison]) -> Counter[str]:
    rows = [row for one in found for row in one.rows]
    return Counter(
        "INVALID" if row.invalid else row.agreement.verdict if row.agreement else row.status for row in rows
    )


def complete(path: Path) -> bool:
    """Whether a campaign has all its restarts; one that was interrupted goes on by its name."""
    stored = path / "comparison.json"
    rows = store.read(stored, Comparison).rows if stored.exists() else ()
    return bool(rows) and all(r.output_throughput and r.output_throughput.num >= RESTARTS for r in rows)


def run(folder: str, variant: str, seeds: str, *words: str) -> None:
    """Campaigns that FOLDER lacks, one after the other; one that fails ends it."""
    results = Path(folder).resolve()
    first, last = map(int, seeds.split("-"))
    own = os.environ | {"HARNESS_RESULTS": str(results), "HARNESS_LOG": str(results / "EXPERIMENT_LOG.md")}
    for seed in range(first, last + 1):
        name = f"{variant}-aa-{seed}"
        if complete(results / name):
            continue
        argv = [sys.executable, "-m", "harness", "aa", variant, *words, f"seed={seed}", f"run_id={name}"]
        subprocess.run(argv, env=own, check=False)  # a FAIL has a status of its own, and is counted
        if not (results / name / "comparison.json").exists():
            raise SystemExit(f"{name} measured nothing")


def count(*folders: str) -> None:
    """The table of docs/STATISTICS.md."""
    groups: dict[str, list[Comparison]] = defaultdict(list)
    every_run = sorted(p.parent for folder in folders for p in Path(folder).glob("*/comparison.json"))
    for path in filter(complete, every_run):
        recipe = store.read_recipe(path)
        groups[recipe.variants[0].removesuffix("-blind1")].append(compare.compare(path))
    print("| engine | campaigns | comparisons | called faster or slower | rows |")
    print("|---|--:|--:|--:|---|")
    for variant, found in groups.items():
        print(line(variant, tally(found)))
    every = tally([one for found in groups.values() for one in found])
    print(line("all", every))
    print(f"\nat most {every.bound:.0%} of campaigns call a false difference (95 % confidence)")


def line(name: str, found: Tally) -> str:
    """One row of the table."""
    words = ", ".join(f"{num} {word}" for word, num in sorted(found.words.items()))
    return f"| {name} | {found.campaigns} | {found.comparisons} | {found.called} | {words} |"


if __name__ == "__main__":
    verb, *given = sys.argv[1:]
    run(*given) if verb == "run" else count(*given)
