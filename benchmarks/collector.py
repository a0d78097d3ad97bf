"""How long `compare` takes for a run of many requests, and how much memory: docs/COLLECTOR.md.

    python -m benchmarks.collector [NUM_RECORDS ...]      default 10000 100000 1000000

Two variants share the records of each size; every record has 200 chunk times and 200 token ids.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import psutil

from harness import store
from harness.schema import Load, Recipe, RequestRecord, Trial, TrialResult, WorkloadSpec

NUM_CHUNKS = 200
POOL = 2000
"""Different records in a file; they repeat."""

CHILD = """
import sys, time
from pathlib import Path
from harness.compare import compare
begun = time.perf_counter()
comparison = compare(Path(sys.argv[1]))
assert len(comparison.contrasts) == 1 and not comparison.notes, comparison
print(time.perf_counter() - begun)
"""


def main() -> None:
    """Prints one line per size: file size, first and later comparison in seconds, peak memory."""
    print("records  file GB  first s  peak GB  again s  peak GB")
    for num in [int(word) for word in sys.argv[1:]] or [10_000, 100_000, 1_000_000]:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder)
            size = write_run(run, num) / 1e9
            first_s, first_gb = measure(run)
            again_s, again_gb = measure(run)
        print(
            f"{num:7d}  {size:7.2f}  {first_s:7.1f}  {first_gb:7.2f}  {again_s:7.1f}  {again_gb:7.2f}",
            flush=True,
        )


def write_run(run: Path, num: int) -> int:
    """A run of two variants with `num` records together; the size of the records in bytes."""
    workload, load = WorkloadSpec(name="benchmark", num_prompts=num // 2), Load(max_concurrency=8)
    recipe = Recipe(question="scale?", variants=("a", "b"), workloads=(workload,), loads=(load,))
    store.write_recipe(run, recipe)
    size = 0
    for seed, variant in enumerate(recipe.variants):
        trial = Trial(variant=variant, workload=workload, load=load)
        folder = store.trial_folder(run, trial)
        store.write(folder / "trial.json", TrialResult(trial=trial, status="done"))
        write(folder / "requests.jsonl", num // 2, seed)
        size += (folder / "requests.jsonl").stat().st_size
    return size


def write(path: Path, num: int, seed: int) -> None:
    """A requests.jsonl of `num` records."""
    rng = random.Random(seed)
    pool = [msgspec.json.encode(record(rng, i)) + b"\n" for i in range(min(POOL, num))]
    with path.open("wb") as file:
        for done in range(0, num, len(pool)):
            file.write(b"".join(pool[: num - done]))


def record(rng: random.Random, index: int) -> RequestRecord:
    """A finished request of 200 tokens, a chunk each, about 10 ms apart."""
    sent = index * 0.01
    times = [sent + 0.2]
    for _ in range(NUM_CHUNKS - 1):
        times.append(times[-1] + rng.random() * 0.02)
    return RequestRecord(
        request_id=f"r{index}",
        due_at_s=sent,
        sent_at_s=sent,
        content_at_s=tuple(times),
        done_at_s=times[-1],
        prompt_len=1000,
        input_len=1000,
        output_len=NUM_CHUNKS,
        usage=True,
        output_token_ids=tuple(rng.randrange(100_000) for _ in range(NUM_CHUNKS)),
        text="some words " * NUM_CHUNKS,
        finish_reason="length",
        http_status=200,
    )


def measure(run: Path) -> tuple[float, float]:
    """Seconds, and the most memory in GB that the process and its workers held together."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(run)], stdout=subprocess.PIPE, text=True)
    peak = 0
    family = psutil.Process(child.pid)
    while child.poll() is None:
        peak = max(peak, memory(family))
        time.sleep(0.05)
    assert child.stdout is not None
    return float(child.stdout.read()), peak / 1e9


def memory(family: psutil.Process) -> int:
    """Bytes resident in a process and its children, mapped files included."""
    total = 0
    try:
        for process in [family, *family.children(recursive=True)]:
            total += process.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


if __name__ == "__main__":
    main()
