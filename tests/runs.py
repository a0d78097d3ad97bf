"""A small finished run on disk, hostile model output included: input of the report tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness import store
from harness.schema import (
    Attestation,
    GpuSample,
    Launch,
    Load,
    Options,
    Recipe,
    RequestRecord,
    Sample,
    Score,
    Trial,
    TrialResult,
    WorkloadSpec,
)
from tests.examples import ENVIRONMENT

SCRIPT = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
WORKLOAD = WorkloadSpec(name="random_tokens", num_prompts=40, params={"input_len": 100, "output_len": 20})
LOADS = (Load(max_concurrency=1), Load(max_concurrency=8))
RECIPE = Recipe(
    question=f"Is fast faster than slow? {SCRIPT}",
    variants=("slow", "fast", "broken"),
    model="tiny-moe",
    workloads=(WORKLOAD,),
    loads=LOADS,
    repeats=2,
    options=Options(price=2.5, moe_log=True),
)


def write_run(run: Path) -> Path:
    """results/<run_id> with two healthy variants at two loads, two restarts each, and one that died."""
    store.write_recipe(run, RECIPE)
    store.write(run / "environment.json", ENVIRONMENT)
    for number, (variant, tpot) in enumerate((("slow", 0.02), ("fast", 0.01))):
        for restart in (1, 2):
            write_visit(run, variant, restart)
            for load in LOADS:
                trial = Trial(variant=variant, workload=WORKLOAD, load=load, restart=restart)
                write_trial(run, trial, tpot * (1 + 0.01 * restart), seed=number * 10 + restart)
    write_visit(run, "broken", 1)
    died = Trial(variant="broken", workload=WORKLOAD, load=LOADS[0])
    store.write(
        store.trial_folder(run, died) / "trial.json",
        TrialResult(
            trial=died, status="failed", reason=f"died {SCRIPT}", evidence=f"Traceback\n{SCRIPT}\x1b[31m"
        ),
    )
    return run


def write_visit(run: Path, variant: str, restart: int) -> None:
    """One server life."""
    folder = store.visit_folder(run, variant, restart)
    launch = Launch(
        variant=variant, engine="vllm", launcher="attach", num_gpus=1, served_model_name="tiny-moe"
    )
    store.write(folder / "launch.json", launch)
    store.write(folder / "attestation.json", Attestation())


def write_trial(run: Path, trial: Trial, tpot: float, seed: int) -> None:
    """A trial that is done, all of it; seconds per token."""
    folder = store.trial_folder(run, trial)
    rng = np.random.default_rng(seed)
    store.write(folder / "trial.json", TrialResult(trial=trial, status="done"))
    with store.RecordWriter(folder / "requests.jsonl") as write:
        for index in range(WORKLOAD.num_prompts):
            write(_record(index, trial.load.max_concurrency or 1, tpot, rng))
    with store.RecordWriter(folder / "scores.jsonl") as write:
        for index in range(8):
            write(_score(f"r{index}", rng))
    with store.RecordWriter(folder / "telemetry.jsonl") as write:
        for second in range(12):
            gauges = {
                "running": 4.0 + second % 3,
                "waiting": float(second % 2),
                "kv_usage": 0.1 * (second % 7),
            }
            gpus = (GpuSample(index=0, power_w=400.0 + second),)
            write(Sample(at_s=float(second), engine=gauges, gpus=gpus))


def _record(index: int, concurrency: int, tpot: float, rng: np.random.Generator) -> RequestRecord:
    sent = index // concurrency * 25 * tpot
    gaps = tpot * rng.uniform(0.8, 1.2, 19)
    times = sent + 0.05 * rng.uniform(0.8, 1.5) + np.concatenate([[0.0], np.cumsum(gaps)])
    return RequestRecord(
        request_id=f"r{index}",
        due_at_s=sent,
        sent_at_s=sent,
        content_at_s=tuple(times.tolist()),
        input_len=100,
        prompt_len=100,
        output_len=20,
        usage=True,
        text=f"{SCRIPT} answer {index}",
    )


def _score(request_id: str, rng: np.random.Generator) -> Score:
    margins = tuple(np.where(rng.random(20) < 0.97, 0.0, 0.03).tolist())
    return Score(
        request_id=request_id,
        reference="slow",
        token_ids=tuple(range(20)),
        logprob=tuple((-0.1 - np.asarray(margins)).tolist()),
        rank=tuple(1 if m == 0 else 2 for m in margins),
        margin=margins,
        emitted_logprob=tuple((-0.11 - np.asarray(margins)).tolist()),
    )
