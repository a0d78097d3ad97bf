"""Within how many tokens a verdict catches each fault of a sampler: the tables of docs/SAMPLING.md.

    python -m tests.sampling.power FOLDER ...

FOLDER is what tests/sampling/oracle.py, or engines.py and reading.py, left. A row is a part; a cell the share
of DRAWS samples of so many tokens that FAIL, in brackets the CANNOT TELL; then what the verdict over all of
them said.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from harness import store
from harness.correctness.agreement import judge
from harness.correctness.floors import JudgeSettings
from harness.schema import Score
from tests.sabotage.rates import cell

BUDGETS = (1_000, 2_000, 3_200, 5_000)
"""Tokens of a sample, whole requests."""
DRAWS = 40


def drawn(scores: Sequence[Score], num_tokens: int, seed: str) -> list[Score]:
    """Requests in random order until they hold so many tokens."""
    order, found, num = random.Random(seed).sample(list(scores), len(scores)), [], 0
    for score in order:
        if num >= num_tokens:
            break
        found.append(score)
        num += len(score.token_ids)
    return found


def row(path: Path) -> str:
    """One line of the table."""
    scores = list(store.read_lines(path, Score))
    total = sum(len(s.token_ids) for s in scores)
    settings = JudgeSettings(dtype="bfloat16" if any(s.played for s in scores) else "float32")
    cells = []
    for budget in BUDGETS:
        if budget > 1.2 * total:
            cells.append("-")
            continue
        found = (judge(drawn(scores, budget, f"{n}"), (), settings=settings) for n in range(DRAWS))
        cells.append(cell(Counter(one.verdict for one in found)))
    whole = judge(scores, (), settings=settings)
    told = f"{whole.verdict}: {whole.reason}".split(";")[0][:110]
    name = path.name.removesuffix(".scores.jsonl")
    return f"| {path.parent.name} | {name} | {total:,} | {' | '.join(cells)} | {told} |"


def main(folders: Sequence[str]) -> None:
    """All tables."""
    print(f"| where | part | tokens | {' | '.join(f'{b:,}' for b in BUDGETS)} | all of them |")
    print("|---" * (len(BUDGETS) + 4) + "|")
    for path in sorted(p for folder in folders for p in Path(folder).glob("*/*.scores.jsonl")):
        print(row(path), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
