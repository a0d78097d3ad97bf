"""What the routing log and what dummy weights cost or gain: bursts of one process taking turns.

Runs in an engine's environment (torch and vLLM, one process, one thread), from the repository's root:

    export OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_ENABLE_V1_MULTIPROCESSING=0
    export VLLM_CPU_KVCACHE_SPACE=1 TORCHDYNAMO_DISABLE=1 PYTHONPATH=moe_log
    export VLLM_LOG_MOE=OUT/moe.jsonl VLLM_LOG_LAYER=1 VLLM_LOG_WARMUP=1
    .engines/vllm-cpu/bin/python scripts/measure_moe_hook.py models/tiny-moe OUT/turns.jsonl [turns]

Each turn runs one burst per arm in random order: "off" and "off again" (everything unwrapped, as without the
flags), "on" (as with them), "dummy" (unwrapped; all parameters replaced as --load-format dummy fills them).
One line per turn: wall and CPU seconds of each arm; CPU time holds the writer's thread. Before the turns one
profiling pass is run and logged, as every GPU worker runs one when it starts.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch
from vllm import LLM, SamplingParams
from vllm.v1.worker.gpu_model_runner import GPUModelRunner
from vllm_moe_log import hooks

ARMS = ("off", "off again", "on", "dummy")
DUMMY_RANGE = 1e-3
NUM_PROMPTS, PROMPT_LEN, OUTPUT_LEN = 16, 64, 64


def main() -> None:
    """Profiling pass, warm-up, then turns."""
    model, out = sys.argv[1], Path(sys.argv[2])
    turns = int(sys.argv[3]) if len(sys.argv) > 3 else 60
    llm = LLM(
        model, enforce_eager=True, max_model_len=1024, max_num_seqs=NUM_PROMPTS, enable_prefix_caching=False
    )
    # What every GPU worker does at start to size its KV cache; the CPU's does not in eager mode.
    executor = llm.llm_engine.engine_core.engine_core.model_executor
    runner = executor.driver_worker.worker.model_runner
    runner.profile_run()
    weights = {arm: snapshot(runner.model, dummy=arm == "dummy") for arm in ("on", "dummy")}
    texts = json.loads((Path(model) / "heldout.json").read_bytes())
    prompts = [{"prompt_token_ids": text[:PROMPT_LEN]} for text in texts[:NUM_PROMPTS]]
    tapped = {router: vars(router)["_compute_routing"] for router in hooks._installed[0]._routers.values()}
    execute = GPUModelRunner.execute_model
    draw = random.Random(0)
    for turn in range(-3, turns):
        took = {}
        for arm in draw.sample(ARMS, len(ARMS)):
            switch(arm == "on", tapped, execute)
            fill(runner.model, weights["dummy" if arm == "dummy" else "on"])
            took[arm] = burst(llm, prompts)
        if turn >= 0:
            with out.open("a") as file:
                file.write(json.dumps(took) + "\n")


def switch(on: bool, tapped: dict[Any, Any], execute: Any) -> None:
    """Put the plugin's two wrappers in place, or take them out."""
    GPUModelRunner.execute_model = execute if on else execute.__wrapped__
    for router, hooked in tapped.items():
        if on:
            router._compute_routing = hooked
        else:
            vars(router).pop("_compute_routing", None)


def snapshot(model: torch.nn.Module, *, dummy: bool) -> list[torch.Tensor]:
    """The parameters as they are, or uniform in +-0.001, each from one seed, as vLLM's dummy loader."""
    if not dummy:
        return [parameter.detach().clone() for parameter in model.parameters()]
    return [
        torch.empty_like(parameter).uniform_(
            -DUMMY_RANGE, DUMMY_RANGE, generator=torch.Generator().manual_seed(1234)
        )
        for parameter in model.parameters()
    ]


def fill(model: torch.nn.Module, weights: list[torch.Tensor]) -> None:
    """Put a snapshot in place."""
    for parameter, values in zip(model.parameters(), weights, strict=True):
        parameter.data.copy_(values)


def burst(llm: LLM, prompts: list[Any]) -> tuple[float, float, int]:
    """(wall seconds, CPU seconds, different output tokens) of one pass over the prompts."""
    sampling = SamplingParams(temperature=0.0, max_tokens=OUTPUT_LEN, ignore_eos=True)
    start, cpu_start = time.perf_counter(), time.process_time()
    outputs = llm.generate(prompts, sampling, use_tqdm=False)
    took_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu_start
    return took_s, cpu_s, len({token for output in outputs for token in output.outputs[0].token_ids})


if __name__ == "__main__":
    main()
