"""Bisections over planted releases: wheels in a folder, installed, started, measured, blamed.

    python -m tests.planted_campaign FOLDER KIND FIRST LAST

KIND: wrong (other tokens), slower (8 %), same (1 %, which 3 % noise between starts hides). Campaign number
i plants the change in one of the releases i.0 ... i.8, another in each; FOLDER/found.jsonl gets a line
each, and what stands there is not done again. `wrong` is `just bisect` as a user types it. The others need
some sixty starts each and leave out what a bench does around a measurement (pre-flight, calibration,
attestation): the same search over the same packages, each start an environment's own server timed by the
client. Environments lie in .engines and are removed after each. Take each number once, from 2 on: uv knows
a release by its name and version, and tests have made those of 1.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from harness import client, plan, registry, server
from harness.bisect import search, words
from harness.bisect.judging import MOST, Seen
from harness.extras import bisect
from harness.host import engine_versions
from harness.host.machine import probe
from harness.planned import Planned, launching
from harness.schema import Load, Request, RequestRecord
from harness.store import read
from tests import planted
from tests.planted import Release

NUM = 9
TOKEN_S, NOISE = 0.1, 0.03
"""So long that what a busy host adds to a token, some milliseconds, is within the noise that is planted."""
SLOWER = {"wrong": 0.0, "slower": 0.08, "same": 0.01}
WORDS = ("32/16", "concurrency=4", "num_prompts=4", "verify=0", "reference=none", "warmup=0")
REQUESTS = tuple(Request(request_id=str(i), max_tokens=8, prompt_token_ids=(i, 2, 3)) for i in range(4))
_ENDS = re.compile(r"Bisect: (?:(?P<release>\S+) is the release|(?P<undecided>undecided))")


def releases(kind: str, number: int) -> dict[str, Release]:
    """Nine of them; the first that has the change is number.guilty(number)."""
    return {
        f"{number}.{minor}": Release(
            TOKEN_S * (1 + SLOWER[kind] * (minor >= guilty(number))) if SLOWER[kind] else Release().token_s,
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
    began = time.monotonic()
    said, restarts = (typed if kind == "wrong" else timed)(folder / f"{kind}-{number}", number)
    for left in (registry.ROOT / ".engines").glob(f"planted@{number}.*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    ended = _ENDS.search(said)
    return {
        "kind": kind,
        "number": number,
        "guilty": f"{number}.{guilty(number)}",
        "found": (ended["release"] or ended["undecided"]) if ended else "",
        "restarts": restarts,
        "seconds": round(time.monotonic() - began, 1),
        "said": said,
    }


def typed(folder: Path, number: int) -> tuple[str, int]:
    """(its sentence, restarts) of `just bisect`."""
    folder.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "HARNESS_RESULTS": str(folder), "HARNESS_LOG": str(folder / "log.md")}
    asked = ("planted", f"good={number}.0", f"bad={number}.{NUM - 1}", "metric=output", *WORDS)
    command = [sys.executable, "-m", "harness", "bisect", *asked, "run_id=campaign"]
    done = subprocess.run(command, env=env, cwd=registry.ROOT, text=True, capture_output=True, check=False)
    said = next((line for line in done.stderr.splitlines() if _ENDS.search(line)), done.stderr[-400:])
    steps = folder / "campaign" / bisect.STEPS
    return said, len(read(steps, bisect.Steps).steps) if steps.exists() else 0


def timed(folder: Path, number: int) -> tuple[str, int]:
    """The same of the search itself, over TPOT of starts of the installed releases."""
    names = tuple(f"planted@{number}.{minor}" for minor in range(NUM))
    made: dict[int, Planned] = {}
    starts: list[int] = []

    def showing(version: int, number: int) -> Seen:
        if version not in made:
            engine_versions.ensure(names[version], registry.ROOT, lambda _: None)
            machine = probe()
            recipe, _ = plan.recipe_of([names[version], "32/8", "reference=none"], machine)
            (made[version],) = plan.plan(recipe, machine)
        starts.append(version)
        return timed_start(made[version], folder / names[version], Seen(version, number))

    found = search.driven(NUM, MOST, showing)
    return words.lines(found, names, "tpot")[0], len(starts)


def timed_start(planned: Planned, folder: Path, shown: Seen) -> Seen:
    """The same with the median TPOT of one start, or why there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = launching(planned, server.port_for(planned.launch), folder)
    records: list[RequestRecord] = []
    with server.serving(chosen.launch, folder / "server.log", "campaign") as running:
        target = client.Target(base_url=running.launch.base_url, model=running.launch.served_model_name)
        client.fire(target, REQUESTS, Load(max_concurrency=len(REQUESTS)), records.append)
    if failed := next((r.error for r in records if r.error), ""):
        return shown._replace(problem=failed)
    spans = [(r.content_at_s[-1] - r.content_at_s[0]) / (len(r.content_at_s) - 1) for r in records]
    return shown._replace(value=math.log(median(spans)))


def main(folder: Path, kind: str, first: int, last: int) -> None:
    """All of them in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(folder / "wheels"),
        "HARNESS_ENGINES": str(registry.ROOT / "tests" / "engines"),
    }
    found = folder / "found.jsonl"
    lines = found.read_text().splitlines() if found.exists() else []
    known = {(line["kind"], line["number"]) for line in map(json.loads, lines)}
    # All before the first: what an index holds is asked once a process.
    for number in range(first, last + 1):
        planted.write(folder / "wheels", {"1.9": Release(), **releases(kind, number)})
    for number in range(first, last + 1):
        if (kind, number) not in known:
            line = json.dumps(campaign(folder, kind, number))
            with found.open("a") as file:
                print(line, file=file)
            print(line, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
