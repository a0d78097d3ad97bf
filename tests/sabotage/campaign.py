"""Collects what healthy and sabotaged engines say, and what the reference thinks of it.

    python -m tests.sabotage.campaign collect FOLDER [NAME]   engines: one start per configuration
    python -m tests.sabotage.campaign score FOLDER            the reference: one start

FOLDER/<configuration>/<part>.requests.jsonl, .prompts.jsonl and .scores.jsonl. What is there is kept, so an
interrupted campaign goes on. tests/sabotage/rates.py makes the table of docs/CORRECTNESS.md of it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from harness import client, models, plan, registry, server, store, workload
from harness.correctness import replay
from harness.schema import Load, Noun, Recipe, Request, RequestRecord, WorkloadSpec
from harness.server import Running
from harness.tokens import Vocabulary

PLUGIN = Path(__file__).parent / "plugin"
REFERENCE = "vllm-cpu-fp32"
MODEL = os.environ.get("SABOTAGE_MODEL", "tiny-moe")
INPUT_LEN, OUTPUT_LEN = 48, 256


class Part(Noun):
    """Some requests to one engine at one concurrency."""

    seed: int
    concurrency: int = 8
    num: int = 96
    workload: str = "text_tokens"

    @property
    def name(self) -> str:
        """File name stem."""
        return f"{self.workload}-c{self.concurrency}-seed{self.seed}"


class Configuration(Noun):
    """One engine start: which fault (or none) and which arguments."""

    name: str
    parts: tuple[Part, ...]
    fault: str = ""
    variant: str = "vllm-cpu"
    args: tuple[str, ...] = ()


LONG = (Part(seed=100), Part(seed=101, workload="random_tokens", num=96))
"""96 x 256 = 24,576 tokens each."""
FLOORS = (Part(seed=102), Part(seed=102, workload="random_tokens"))
"""Healthy output that the others are held against."""
CONCURRENCIES = (1, 2, 4, 8, 16, 32)
HEALTHY_SEEDS = tuple(
    Part(seed=seed, concurrency=CONCURRENCIES[seed % 6], num=24, workload=name)
    for seed in range(20)
    for name in ("text_tokens", "random_tokens")
)

CONFIGURATIONS = (
    Configuration(name="healthy", parts=(*LONG, *FLOORS, *HEALTHY_SEEDS)),
    Configuration(
        name="healthy-small-chunks",
        args=("--max-num-batched-tokens", "64"),
        parts=(Part(seed=200, num=24), Part(seed=201, num=24, concurrency=32)),
    ),
    *(Configuration(name=f"fault-{fault}", fault=fault, parts=LONG) for fault in "abc"),
    Configuration(name="fault-d", fault="d", parts=(*LONG, Part(seed=103, concurrency=2, num=24))),
    *(Configuration(name=f"fault-{fault}", fault=fault, parts=LONG) for fault in "efg"),
)


@contextmanager
def serving(variant: str, fault: str = "", args: tuple[str, ...] = ()) -> Iterator[Running]:
    """A real engine of this variant, sabotaged or not."""
    chosen = registry.variant(variant)
    env = {"PYTHONPATH": str(PLUGIN), "SABOTAGE": fault} if fault else {}
    recipe = Recipe(question="", variants=(variant,), args=args, env=env)
    deployment = plan.deploy(chosen, models.resolve(MODEL), recipe, "process")
    deployment = msgspec.structs.replace(deployment, port=server.free_port())
    launch = registry.engine(chosen.engine).launch(deployment, chosen)
    log = Path("/tmp") / f"sabotage-{variant}-{fault or 'healthy'}-{launch.port}.log"
    with server.serving(launch, log, "sabotage") as running:
        installed = "SABOTAGE" in log.read_text(errors="replace")
        if installed != bool(fault):
            raise RuntimeError(f"{log}: the sabotage plugin did {'' if installed else 'not '}load")
        yield running


def fire(running: Running, part: Part) -> tuple[tuple[Request, ...], list[RequestRecord]]:
    """The part's requests, all asking for logprobs, and their records in order."""
    params = {"input_len": INPUT_LEN, "output_len": OUTPUT_LEN}
    spec = WorkloadSpec(name=part.workload, num_prompts=part.num, seed=part.seed, params=dict(params))
    load = Load(max_concurrency=part.concurrency)
    vocabulary = Vocabulary(models.resolve(MODEL).path)
    requests, _ = workload.build(spec, load, vocabulary, num_verify=part.num)
    target = client.Target(
        base_url=running.launch.base_url,
        model=running.launch.served_model_name,
        extras=dict(getattr(registry.engine(running.launch.engine), "EXTRAS", {})),
    )
    records: dict[str, RequestRecord] = {}
    client.fire(target, requests, load, lambda r: records.__setitem__(r.request_id, r))
    return requests, [records[r.request_id] for r in requests]


def samples(requests: tuple[Request, ...], records: list[RequestRecord]) -> list[replay.Sample]:
    """Every request as a sample for the replay."""
    return [
        replay.Sample(
            request_id=r.request_id,
            prompt_token_ids=q.prompt_token_ids or (),
            output_token_ids=r.output_token_ids or (),
            emitted_logprobs=r.output_logprobs,
        )
        for q, r in zip(requests, records, strict=True)
    ]


def collect(folder: Path, only: str = "") -> None:
    """Start every configuration (or the one named) once and keep what it said."""
    for configuration in (c for c in CONFIGURATIONS if only in ("", c.name)):
        place = folder / configuration.name
        left = [p for p in configuration.parts if not (place / f"{p.name}.requests.jsonl").exists()]
        if not left:
            continue
        with serving(configuration.variant, configuration.fault, configuration.args) as running:
            for part in left:
                began = time.monotonic()
                requests, records = fire(running, part)
                keep(place / f"{part.name}.prompts.jsonl", requests)
                keep(place / f"{part.name}.requests.jsonl", records)
                failed = sum(bool(r.error) for r in records)
                print(
                    f"{place.name} {part.name}: {time.monotonic() - began:.1f} s, {failed} failed", flush=True
                )


def score(folder: Path) -> None:
    """Replay everything through the reference."""
    with serving(REFERENCE) as running:
        engine = registry.engine(running.launch.engine)
        for path in sorted(folder.glob("*/*.requests.jsonl")):
            scored = path.with_name(path.name.replace(".requests.", ".scores."))
            if scored.exists():
                continue
            prompts = path.with_name(path.name.replace(".requests.", ".prompts."))
            requests = tuple(store.read_lines(prompts, Request))
            records = list(store.read_lines(path, RequestRecord))
            began = time.monotonic()
            options = replay.ReplayOptions(reference=REFERENCE)
            model = running.launch.served_model_name
            keep(
                scored,
                replay.score(running.launch.base_url, engine, model, samples(requests, records), options),
            )
            print(f"{path.parent.name} {path.stem}: {time.monotonic() - began:.1f} s", flush=True)


def keep(path: Path, nouns: object) -> None:
    """One line each, the whole file or none."""
    partial = path.with_suffix(".partial")
    with store.RecordWriter(partial) as write:
        for noun in nouns:  # type: ignore[attr-defined]
            write(noun)
    partial.replace(path)


if __name__ == "__main__":
    {"collect": collect, "score": score}[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
