"""Collects what real engines say when they sample: healthy, and with faults that an argument can cause.

    python -m tests.sampling.engines FOLDER VARIANT [SECONDS]

FOLDER/<variant>/<part>.prompts.jsonl (what was asked) and .requests.jsonl (what came). What is there is kept;
no part is begun after SECONDS (240), so that a campaign may be cut into holds. vLLM and SGLang are started
with sampling defaults that are faults, which a request's own fields override: healthy parts show that they
do. tests/sampling/reading.py has the reference read it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from harness import client, models, registry, workload
from harness.schema import Load, Request, RequestRecord, Sampler, Sampling, Scalar, WorkloadSpec
from harness.server import Running
from harness.tokens import Vocabulary
from tests.sabotage.campaign import keep, serving
from tests.sampling.asked import ASKED

CONCURRENCY = 8
NUM_HEALTHY, NUM_OF_QUICK = 14, {"llamacpp": 22}
ARGS: dict[str, tuple[str, ...]] = {
    "vllm-cpu": ("--override-generation-config", '{"temperature": 0.9, "top_k": 20}'),
    "sglang-cpu": ("--preferred-sampling-params", '{"temperature": 0.9, "top_k": 20}'),
}


class Part(NamedTuple):
    """Some requests; `extras` change what is sent behind the back of what is said to be asked."""

    name: str
    sampling: Sampling
    seed: int
    extras: Mapping[str, Any] = MappingProxyType({})
    ignore_eos: bool = True
    num: int = 16
    output_len: int = 200


def parts(variant: str) -> list[Part]:
    """What one engine is asked."""
    labels = list(ASKED)
    healthy = [
        Part(f"healthy-{n}-{label}", ASKED[label], seed=100 + n, ignore_eos=n % 2 == 0)
        for n in range(NUM_OF_QUICK.get(variant, NUM_HEALTHY))
        for label in [labels[n % len(labels)]]
    ]
    plain, cut, penalised = ASKED.values()
    sampler = getattr(registry.engine(registry.variant(variant).engine), "SAMPLER", Sampler())
    repetition = sampler.fields.get("repetition_penalty", "repetition_penalty")
    unsaid = dict.fromkeys(("temperature", "top_k", "top_p", "min_p"))
    last = {"samplers": ["penalties", "top_k", "top_p", "min_p", "temperature"]}
    faulty = [
        Part("temperature x 0.9", plain, 1, {"temperature": 0.9}, num=32),
        Part("top_p ignored", cut, 2, {"top_p": 1.0}, num=32),
        Part("repetition penalty twice", penalised, 3, {repetition: 1.1**2}, num=32),
        Part("defaults slip in", plain, 4, {**unsaid, "samplers": None}, num=32),
    ]
    if variant != "sglang-cpu":  # which takes a request's seed only when it was started to be deterministic
        faulty.append(Part("same seed for all", plain, 5, {"seed": 7}, num=32))
    if variant == "llamacpp":
        faulty.append(Part("temperature last", cut, 6, last, num=32))
    if variant == "vllm-cpu":
        seeded = Sampling(seed=1000)
        healthy.append(Part("healthy-seeded", seeded, 120))
        faulty.append(Part("seeded, temperature x 0.9", seeded, 7, {"temperature": 0.9}, num=32))
    return healthy + faulty


def requests_of(part: Part) -> tuple[Request, ...]:
    """All asking for logprobs."""
    params: dict[str, Scalar] = {"input_len": 100, "output_len": part.output_len}
    spec = WorkloadSpec(
        name="text_tokens",
        num_prompts=part.num,
        seed=part.seed,
        params=params,
        sampling=part.sampling,
        ignore_eos=part.ignore_eos,
    )
    vocabulary = Vocabulary(models.resolve("tiny-moe").path)
    return workload.build(spec, Load(max_concurrency=CONCURRENCY), vocabulary, num_verify=part.num)[0]


def fire(running: Running, part: Part) -> tuple[tuple[Request, ...], list[RequestRecord]]:
    """What was asked, and the records, in order."""
    requests, engine = requests_of(part), registry.engine(running.launch.engine)
    sampler = getattr(engine, "SAMPLER", Sampler())
    target = client.Target(
        base_url=running.launch.base_url,
        model=running.launch.served_model_name,
        extras={**getattr(engine, "EXTRAS", {}), **part.extras},
        sampler=sampler,
    )
    records: dict[str, RequestRecord] = {}
    load = Load(max_concurrency=CONCURRENCY)
    client.fire(target, requests, load, lambda r: records.__setitem__(r.request_id, r))
    return requests, [records[r.request_id] for r in requests]


def main(folder: str, variant: str, seconds: str = "240") -> None:
    """One engine's life: every part that is not there yet, while there is time."""
    place = Path(folder) / variant
    left = [p for p in parts(variant) if not (place / f"{p.name}.requests.jsonl").exists()]
    if not left:
        print("all there")
        return
    began = time.monotonic()
    with serving(variant, args=ARGS.get(variant, ())) as running:
        print(f"{variant} serves after {time.monotonic() - began:.0f} s", flush=True)
        for part in left:
            if time.monotonic() - began > float(seconds):
                print("more to come", flush=True)
                return
            since = time.monotonic()
            requests, records = fire(running, part)
            keep(place / f"{part.name}.prompts.jsonl", requests)
            keep(place / f"{part.name}.requests.jsonl", records)
            failed = [r.error for r in records if r.error]
            print(
                f"{part.name}: {time.monotonic() - since:.1f} s, {len(failed)} failed {failed[:1]}",
                flush=True,
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
