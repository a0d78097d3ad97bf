"""Every variant on one node and on two, in every scheduler's words, held against the schedulers themselves.

    python -m benchmarks.schedulers [PYTHON CRD]

Slurm: `sbatch --test-only` on a real cluster of two nodes. PYTHON has skypilot, jsonschema and PyYAML:
SkyPilot's own parser reads its tasks; CRD is LeaderWorkerSet's schema (kubernetes-sigs/lws,
config/crd/bases/leaderworkerset.x-k8s.io_leaderworkersets.yaml). bash reads the rest.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks import slurm
from harness.errors import InputError
from harness.host.machine import probe
from harness.plan import everything
from harness.ranks import plans

READ = """
import json, pathlib, sys, yaml
folder, crd = map(pathlib.Path, sys.argv[1:])
import jsonschema, sky
schema = yaml.safe_load(crd.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
for path in sorted(folder.iterdir()):
    try:
        if path.suffix == ".skypilot":
            task = sky.Task.from_yaml(str(path))
            assert task.num_nodes == int(path.stem[-1])
        if path.suffix == ".lws":
            found = yaml.safe_load(path.read_text())
            jsonschema.Draft7Validator(schema).validate(found)
            assert found["spec"]["leaderWorkerTemplate"]["size"] == int(path.stem[-1])
    except Exception as error:
        print(path.name, " ".join(str(error).split())[:300])
"""


def write(folder: Path) -> Counter[str]:
    """A file per variant, number of nodes and scheduler; how many, and what was refused, by scheduler."""
    found: Counter[str] = Counter()
    for num in (1, 2):
        for planned in (p for p in everything(["all", f"nodes={num}"], probe()) if p.own_server):
            for kind, rendered in plans.KINDS.items():
                try:
                    text = rendered(planned.launch)
                except InputError as error:
                    found[f"{kind}: refused, {error.message.partition(' ')[2].partition(';')[0]}"] += 1
                    continue
                (folder / f"{planned.variant.name}.{num}.{kind}").write_text(text)
                found[kind] += 1
    return found


def sbatch(folder: Path) -> list[str]:
    """What a real Slurm says against its files."""
    with slurm.cluster() as env:
        wrong = []
        for path in sorted(folder.glob("*.slurm")):
            done = subprocess.run(
                ["sbatch", "--test-only", str(path)], env=env, capture_output=True, text=True
            )
            wrong += [f"{path.name} {done.stderr.strip()}"] if done.returncode else []
        return wrong


def show(words: Sequence[str]) -> int:
    """Counts, then everything that a scheduler does not take."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for what, num in sorted(write(folder).items()):
            print(f"{num:4} {what}")
        loop = 'for f in "$0"/*.slurm "$0"/*.script; do bash -n "$f" || echo "$f"; done'
        wrong = subprocess.run(["bash", "-c", loop, name], capture_output=True, text=True).stdout.splitlines()
        wrong += sbatch(folder)
        if words:
            command = [words[0], "-c", READ, name, words[1]]
            done = subprocess.run(command, capture_output=True, text=True)
            wrong += [*done.stdout.splitlines(), *([done.stderr[-500:]] if done.returncode else [])]
        print("\n".join(wrong) or "0 errors")
        return bool(wrong)


if __name__ == "__main__":
    sys.exit(show(sys.argv[1:]))
