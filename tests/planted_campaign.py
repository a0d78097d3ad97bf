"""Bisections over planted releases, end to end: wheels in a folder, installed, started, measured, blamed.

    python -m tests.planted_campaign FOLDER KIND FIRST LAST

KIND: wrong (other tokens), slower (8 %), same (1 %, which 3 % noise between starts hides). Campaign number
i plants the change in one of the releases i.0 ... i.8, another in each; FOLDER/found.jsonl gets a line
each, and what stands there is not done again. Environments lie in .engines and are removed after each. Take
each number once, from 2 on: uv knows a release by its name and version, and tests have made those of 1.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from harness import registry
from harness.extras import bisect
from harness.store import read
from tests import planted
from tests.planted import Release

NUM = 9
TOKEN_S, NOISE = 0.02, 0.03
SLOWER = {"wrong": 0.0, "slower": 0.08, "same": 0.01}
WORDS = ("32/16", "concurrency=4", "num_prompts=4", "verify=0", "reference=none", "warmup=0")
_ENDS = re.compile(r"Bisect: (?:(?P<release>\S+) is the release|(?P<undecided>undecided))")


def releases(kind: str, number: int) -> dict[str, Release]:
    """Nine of them; the first that has the change is number.guilty(number)."""
    return {
        f"{number}.{minor}": Release(
            TOKEN_S * (1 + SLOWER[kind] * (minor >= guilty(number))),
            wrong=kind == "wrong" and minor >= guilty(number),
            noise=NOISE,
        )
        for minor in range(NUM)
    }


def guilty(number: int) -> int:
    """Minor number of the guilty release, from 1 to 8."""
    return 1 + number % (NUM - 1)


def campaign(folder: Path, kind: str, number: int) -> dict[str, object]:
    """One bisection, and what it said."""
    wheels, results = folder / "wheels", folder / "results" / f"{kind}-{number}"
    planted.write(wheels, {"1.9": Release(), **releases(kind, number)})
    env = {
        **os.environ,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
        "HARNESS_ENGINES": str(registry.ROOT / "tests" / "engines"),
        "HARNESS_RESULTS": str(results),
        "HARNESS_LOG": str(folder / "log.md"),
    }
    metric = "output" if kind == "wrong" else "tpot"
    asked = ("planted", f"good={number}.0", f"bad={number}.{NUM - 1}", f"metric={metric}", *WORDS)
    command = [sys.executable, "-m", "harness", "bisect", *asked, "run_id=campaign"]
    began = time.monotonic()
    done = subprocess.run(command, env=env, cwd=registry.ROOT, text=True, capture_output=True, check=False)
    said = next((line for line in done.stderr.splitlines() if _ENDS.search(line)), "")
    ended = _ENDS.search(said)
    steps = read(results / "campaign" / bisect.STEPS, bisect.Steps).steps if ended else ()
    for left in (registry.ROOT / ".engines").glob(f"planted@{number}.*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    return {
        "kind": kind,
        "number": number,
        "guilty": f"{number}.{guilty(number)}",
        "found": (ended["release"] or ended["undecided"]) if ended else done.stderr[-400:],
        "restarts": len(steps),
        "seconds": round(time.monotonic() - began, 1),
        "said": said,
    }


def main(folder: Path, kind: str, first: int, last: int) -> None:
    """All of them in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    found = folder / "found.jsonl"
    lines = found.read_text().splitlines() if found.exists() else []
    known = {(line["kind"], line["number"]) for line in map(json.loads, lines)}
    for number in range(first, last + 1):
        if (kind, number) not in known:
            with found.open("a") as file:
                print(line := json.dumps(campaign(folder, kind, number)), file=file)
            print(line, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
