"""Detection and false-alarm rates from what campaign.py collected: the tables of docs/CORRECTNESS.md.

python -m tests.sabotage.rates FOLDER
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from harness import store
from harness.correctness import divergence
from harness.correctness.agreement import judge
from harness.correctness.floors import DEFAULT_FLOORS, NOISE, NOISE_CAP
from harness.schema import RequestRecord, Score

BUDGETS = ((8, 64), (4, 256), (8, 256), (20, 256), (40, 256), (80, 256))
"""(requests, tokens of each): 512, 1,024, 2,048, 5,120, 10,240 and 20,480 tokens."""
DRAWS = 20
FLOORS = {name: f"{name}-c8-seed102" for name in ("text_tokens", "random_tokens")}
FAULTS = "abcdefg"


def scores(folder: Path, configuration: str, part: str) -> list[Score]:
    """Scores of one part."""
    return list(store.read_lines(folder / configuration / f"{part}.scores.jsonl", Score))


def records(folder: Path, configuration: str, part: str) -> list[RequestRecord]:
    """Records of one part."""
    return list(store.read_lines(folder / configuration / f"{part}.requests.jsonl", RequestRecord))


def cut(score: Score, length: int) -> Score:
    """The first `length` tokens only."""
    emitted, played = score.emitted_logprob, score.played
    if played:
        played = msgspec.structs.replace(
            played,
            logprob=played.logprob[:length],
            margin=played.margin[:length],
            faults={name: values[:length] for name, values in played.faults.items()},
        )
    return msgspec.structs.replace(
        score,
        played=played,
        top_logprobs=score.top_logprobs[:length],
        emitted_top_logprobs=score.emitted_top_logprobs[:length],
        token_ids=score.token_ids[:length],
        logprob=score.logprob[:length],
        rank=score.rank[:length],
        margin=score.margin[:length],
        emitted_logprob=emitted[:length] if emitted else None,
    )


def drawn(found: Sequence[Score], num: int, length: int, seed: str) -> list[Score]:
    """A seeded sample of requests, cut."""
    chosen = random.Random(seed).sample(range(len(found)), min(num, len(found)))
    return [cut(found[i], length) for i in chosen]


def verdicts(judged: Sequence[Score], floor: Sequence[Score], budget: tuple[int, int]) -> Counter[str]:
    """Verdicts of DRAWS samples of this size, each against a floor sample of the same size."""
    found: Counter[str] = Counter()
    for draw in range(DRAWS):
        sample = drawn(judged, *budget, f"judged:{draw}")
        own = drawn(floor, *budget, f"floor:{draw}")
        found[judge(sample, (), own).verdict] += 1
    return found


def cell(found: Counter[str]) -> str:
    """FAIL share, with the CANNOT TELL share where there is one."""
    fail, unsure = (found[v] / found.total() for v in ("FAIL", "CANNOT TELL"))
    return f"{fail:.0%}" + (f" ({unsure:.0%} ?)" if unsure else "")


def statistics(found: Sequence[Score]) -> str:
    """The five statistics, pooled; outliers as agreement.judge counts them without a measured floor."""
    tokens = divergence.tokens_of(found)
    noise = min(divergence.noise(tokens) or 0.0, NOISE_CAP * DEFAULT_FLOORS["bfloat16"][NOISE])
    sums = divergence.sums(tokens, divergence.outlier_nats(noise))
    return " | ".join(
        f"{divergence.pooled(sums[n]):.2g}" if n in sums else "-" for n in divergence.STATISTICS
    )


def detection(folder: Path, workload: str, part: str) -> None:
    """Table: fault x tokens -> share of samples that fail."""
    floor = scores(folder, "healthy", FLOORS[workload])
    print(f"\n### {workload}\n\n| configuration | " + " | ".join(f"{n * k:,}" for n, k in BUDGETS) + " |")
    print("|---" * (len(BUDGETS) + 1) + "|")
    configurations = [("healthy", part), *((f"fault-{f}", part) for f in FAULTS)]
    if workload == "text_tokens":
        configurations.append(("fault-d", "text_tokens-c2-seed103"))
    for name, chosen in configurations:
        if not (folder / name / f"{chosen}.scores.jsonl").exists():
            continue
        found = scores(folder, name, chosen)
        budgets = [b for b in BUDGETS if b[0] <= len(found)]
        cells = [cell(verdicts(found, floor, b)) for b in budgets]
        label = name if chosen == part else f"{name} at concurrency 2"
        print(f"| {label} | " + " | ".join(cells + ["-"] * (len(BUDGETS) - len(cells))) + " |", flush=True)


def strength(folder: Path) -> None:
    """Table: configuration -> statistics."""
    print("\n| configuration | tokens | " + " | ".join(divergence.STATISTICS) + " |")
    print("|---" * (len(divergence.STATISTICS) + 2) + "|")
    for path in sorted(folder.glob("*/*.scores.jsonl")):
        found = list(store.read_lines(path, Score))
        tokens = sum(len(s.token_ids) for s in found)
        print(f"| {path.parent.name} {path.name.split('.')[0]} | {tokens:,} | {statistics(found)} |")


def false_alarms(folder: Path) -> None:
    """Healthy runs against a measured and the default floor, text symptoms included."""
    totals: dict[str, Counter[str]] = {"measured floor": Counter(), "default floor": Counter()}
    for path in sorted([*folder.glob("healthy*/*seed*.scores.jsonl")]):
        part = path.name.split(".")[0]
        floor_part = FLOORS[part.split("-")[0]]
        if part == floor_part:
            continue
        found = scores(folder, path.parent.name, part)
        asked = records(folder, path.parent.name, part)
        floor, healthy = scores(folder, "healthy", floor_part), records(folder, "healthy", floor_part)
        for name, agreement in (
            ("measured floor", judge(found, asked, floor, floor_records=healthy)),
            ("default floor", judge(found, asked)),
        ):
            totals[name][agreement.verdict] += 1
            if agreement.verdict != "PASS":
                print(f"- {path.parent.name} {part}, {name}: {agreement.verdict}: {agreement.reason}")
    for name, counted in totals.items():
        print(f"- {name}: {dict(counted)} of {counted.total()} healthy runs")


def main(folder: Path) -> None:
    """All tables."""
    strength(folder)
    for workload, part in (
        ("text_tokens", "text_tokens-c8-seed100"),
        ("random_tokens", "random_tokens-c8-seed101"),
    ):
        detection(folder, workload, part)
    print()
    false_alarms(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
