"""The harness itself under a long run: docs/RELIABILITY.md.

    python -m benchmarks.soak requests [NUM]             one run of NUM requests against a known server
    python -m benchmarks.soak trials [VARIANTS RESTARTS]   a kept run's records, recomputed as so many trials

Each prints wall seconds, CPU seconds and the most memory (GB) that the process and its children held.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import psutil

from benchmarks.collector import memory
from harness import store
from harness.client import known_server
from harness.registry import ROOT
from harness.schema import TrialResult

KEPT = "20261121-030948-all"
"""Whose records are recomputed."""


def main() -> None:
    """One line per step."""
    what, *rest = sys.argv[1:] or ["requests"]
    with tempfile.TemporaryDirectory() as folder:
        if what == "requests":
            requests(Path(folder), int(rest[0]) if rest else 1_000_000)
        else:
            variants, restarts = [*map(int, rest), 24, 10][:2] if len(rest) == 2 else (24, 10)
            trials(Path(folder), variants, restarts)


def requests(folder: Path, num: int) -> None:
    """A whole bench: 8 tokens in, 2 out, 64 at once; then its comparison again."""
    env = {"HARNESS_RESULTS": str(folder), "HARNESS_LOG": str(folder / "log.md")}
    with known_server.running(known_server.Script(first_token_s=0.0, token_s=0.0)) as url:
        asked = ("8/2", "concurrency=64", f"num_prompts={num}", "reference=none", "verify=0", "run_id=soak")
        told("bench", ["load", f"url={url}", *asked], env)
    run = folder / "soak"
    size = sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) / 1e9
    records = sum(1 for _ in store.lines(next(run.glob("*/r1/*@*")) / "requests.jsonl"))
    print(f"{records} records of {num} requests are kept, {size:.2f} GB in all", flush=True)
    told("compare", ["compare", "soak"], env)


def trials(folder: Path, variants: int, restarts: int) -> None:
    """The trials of one variant of a kept run, under other names; recomputed with verdicts and contrasts."""
    source, run = ROOT / "results" / KEPT, folder / "many"
    recipe = store.read_recipe(source)
    names = tuple(f"v{number:02d}" for number in range(variants))
    changed = msgspec.structs.replace(recipe, variants=names, repeats=restarts, reference="none", baseline="")
    store.write_recipe(run, changed)
    for name in ("environment.json", "workloads"):
        (shutil.copytree if (source / name).is_dir() else shutil.copy)(source / name, run / name)
    for name in names:
        for restart in range(1, restarts + 1):
            visit = store.visit_folder(run, name, restart)
            shutil.copytree(source / recipe.variants[0] / "r1", visit)
            for path in visit.glob("*/trial.json"):
                result = store.read(path, TrialResult)
                trial = msgspec.structs.replace(result.trial, variant=name, restart=restart)
                store.write(path, msgspec.structs.replace(result, trial=trial))
    num = len(list(run.glob("*/r*/*/trial.json")))
    print(f"{variants} variants x {restarts} restarts: {num} trials", flush=True)
    env = {"HARNESS_RESULTS": str(folder), "HARNESS_LOG": str(folder / "log.md")}
    told("compare", ["compare", "many"], env)


def told(what: str, words: list[str], env: dict[str, str]) -> None:
    """Runs a verb and prints what it took. Exits with its words where it failed."""
    begun, peak = time.monotonic(), 0
    with tempfile.TemporaryFile("w+") as out:
        command = [sys.executable, "-m", "harness", *words]
        child = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **env}, stdout=out, stderr=out)
        family = psutil.Process(child.pid)
        while child.poll() is None:
            peak = max(peak, memory(family))
            time.sleep(0.2)
        if child.returncode:
            out.seek(0)
            sys.exit(f"{what} ended with {child.returncode}:\n{out.read()[-2000:]}")
    used = os.times()
    cpu, wall = used.children_user + used.children_system, time.monotonic() - begun
    print(f"{what}: {wall:.0f} s, {cpu:.0f} s of CPU so far, {peak / 1e9:.2f} GB at most", flush=True)


if __name__ == "__main__":
    main()
