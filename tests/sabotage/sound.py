"""How healthy engines are judged: engine x precision, runs and words, for docs/CORRECTNESS.md.

    python -m tests.sabotage.sound FOLDER ...

FOLDER is what campaign.py collected of the configurations `sound-` and reading.py read. A run is a part: 16
requests with prompts of their own. Runs whose prompts and outputs are another's are not counted again. The
reference plays on as much of a run as it does of a trial.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from harness import store
from harness.correctness.agreement import judge
from harness.correctness.verification import PLAYED_REQUESTS
from harness.schema import Agreement, RequestRecord, Score
from tests.sabotage.power import settings


class Run(NamedTuple):
    """One healthy part and its verdict."""

    configuration: str
    part: str
    said: int
    """Hash of its prompts and outputs."""
    found: Agreement


def runs(folders: Iterable[Path]) -> Iterator[Run]:
    """Every part of a sound configuration that was read, judged as a row of a bench is."""
    for path in sorted(p for folder in folders for p in folder.glob("sound-*/*.scores.jsonl")):
        scores = list(store.read_lines(path, Score))
        records = list(
            store.read_lines(path.with_name(path.name.replace("scores", "requests")), RequestRecord)
        )
        said = hash(tuple(sorted((s.prompt_token_ids, s.token_ids) for s in scores)))
        name = path.parent.name
        found = judge(as_in_a_trial(scores), records, settings=settings(name, declared=True))
        yield Run(name.removeprefix("sound-"), path.name.split(".")[0], said, found)


def as_in_a_trial(scores: list[Score]) -> list[Score]:
    """The scores with the engine's precision played on the first of them only, as `bench` asks for it."""
    first = scores[:PLAYED_REQUESTS]
    return [*first, *(msgspec.structs.replace(s, played=None) for s in scores[PLAYED_REQUESTS:])]


def distinct(found: Iterable[Run]) -> list[Run]:
    """The runs that said something of their own."""
    return list({run.said: run for run in found}.values())


def line(name: str, every: list[Run]) -> str:
    """One row: engine and precision, runs, tokens, words, distance."""
    words = Counter(run.found.verdict for run in every)
    tokens = sum(run.found.num_tokens for run in every)
    counted = " | ".join(str(words[word]) for word in ("PASS", "CANNOT TELL", "FAIL"))
    return f"| {name} | {len(every)} | {tokens:,} | {counted} | {_range(every)} |"


def _range(every: list[Run]) -> str:
    """Least to most of the distance that was judged."""
    for statistic, unit in (("noise_ratio", "x rounding"), ("mean_abs_dlogprob", "nats")):
        seen = [found.mean for run in every if (found := run.found.statistics.get(statistic))]
        if seen:
            return f"{min(seen):.2g}-{max(seen):.2g} {unit}"
    return "-"


def main(folders: list[str]) -> None:
    """The table, and what is said of every run that did not PASS."""
    found = list(runs(map(Path, folders)))
    own = distinct(found)
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in own:
        groups[run.configuration].append(run)
    print("| engine, precision | runs | tokens | PASS | CANNOT TELL | FAIL | distance |")
    print("|---|--:|--:|--:|--:|--:|---|")
    for name, every in groups.items():
        print(line(name, every))
    print(line("all", own).rsplit(" | ", 1)[0] + " | |")
    print(f"\n{len(found)} runs, {len(own)} distinct")
    for run in own:
        if run.found.verdict != "PASS":
            print(f"- {run.configuration} {run.part}: {run.found.verdict}: {run.found.reason}")


if __name__ == "__main__":
    main(sys.argv[1:])
