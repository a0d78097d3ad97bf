"""How often a verdict that knows the rounding catches each fault: the power tables of docs/CORRECTNESS.md.

    python -m tests.sabotage.power FOLDER ...

FOLDER is what campaign.py collected and reading.py read. A row is a part of a configuration; a cell the share
of DRAWS samples of that many tokens that FAIL, in brackets the CANNOT TELL. Answers to given text have no
choices of the engine's to judge and are left out.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from harness import store
from harness.correctness import divergence
from harness.correctness.agreement import judge
from harness.correctness.floors import JudgeSettings
from harness.schema import Agreement, Score
from tests.sabotage.configurations import CONFIGURATIONS
from tests.sabotage.rates import DRAWS, cell, drawn

BUDGETS = ((8, 50), (10, 100), (16, 100), (16, 200), (32, 200), (64, 200))
"""(requests, tokens of each): 400, 1,000, 1,600, 3,200, 6,400 and 12,800 tokens."""
EIGHT_BIT = "kv-fp8"


def settings(configuration: str, *, declared: bool) -> JudgeSettings:
    """What the variant attests."""
    chosen = {c.name: c for c in CONFIGURATIONS}[configuration]
    return JudgeSettings(dtype=chosen.dtype, eight_bit=declared and EIGHT_BIT in configuration)


def verdicts(scores: Sequence[Score], given: JudgeSettings, budget: tuple[int, int]) -> Counter[str]:
    """Of DRAWS samples."""
    samples = (drawn(scores, *budget, f"power:{draw}") for draw in range(DRAWS))
    return Counter(judge(sample, (), settings=given).verdict for sample in samples)


def whole(found: Agreement) -> str:
    """Distance and the fault that shows most, over all tokens of a part."""
    ratio = found.statistics.get("noise_ratio")
    most = max(found.likeness.items(), key=lambda pair: pair[1].mean, default=None)
    like = f"{most[1].mean:.2f} {most[0]}" if most and most[1].mean > 0.1 else ""
    shown = f"{ratio.mean:.2f} ({ratio.low:.2f}-{ratio.high:.2f})" if ratio else "-"
    return f"{shown} | {like}"


def row(path: Path) -> str:
    """One line of the table."""
    scores = list(store.read_lines(path, Score))
    given = settings(path.parent.name, declared=not path.name.endswith(".undeclared.jsonl"))
    silent = "" if given.eight_bit or EIGHT_BIT not in path.parent.name else ", undeclared"
    longest = min(len(s.token_ids) for s in scores)
    budgets = [b for b in BUDGETS if b[0] <= len(scores) and b[1] <= longest]
    cells = [cell(verdicts(scores, given, b)) for b in budgets]
    loops = divergence.tokens_of(scores).effective / sum(len(s.token_ids) for s in scores)
    named = f"{path.parent.name}{silent} | {path.name.split('.')[0]}"
    every = whole(judge(scores, (), settings=given))
    return (
        f"| {named} | {loops:.0%} | {every} | "
        + " | ".join(cells + ["-"] * (len(BUDGETS) - len(cells)))
        + " |"
    )


def main(folders: Sequence[str]) -> None:
    """All tables."""
    heads = " | ".join(f"{n * k:,}" for n, k in BUDGETS)
    print(f"| configuration | part | effective | x rounding | like | {heads} |")
    print("|---" * (len(BUDGETS) + 5) + "|")
    for folder in folders:
        paths = [p for kind in ("scores", "undeclared") for p in Path(folder).glob(f"*/*.{kind}.jsonl")]
        for path in sorted(p for p in paths if "forced" not in p.name):
            print(row(path), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
