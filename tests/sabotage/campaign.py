"""Collects what healthy and sabotaged engines say, and what the reference thinks of it.

    python -m tests.sabotage.campaign collect FOLDER [NAME]   engines: one start per configuration
    python -m tests.sabotage.campaign score FOLDER            the reference: one start

FOLDER/<configuration>/<part>.requests.jsonl, .prompts.jsonl and .scores.jsonl. What is there is kept, so an
interrupted campaign goes on. NAME stands for every configuration whose name begins with it.
tests/sabotage/rates.py makes the table of docs/CORRECTNESS.md of it.
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
from harness.correctness import replay, retokenise
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
    num_top: int = 0
    """Alternatives per token asked for."""

    @property
    def name(self) -> str:
        """File name stem."""
        top = f"-top{self.num_top}" if self.num_top else ""
        return f"{self.workload}-c{self.concurrency}-seed{self.seed}{top}"


class Configuration(Noun):
    """One engine start: which fault (or none) and which arguments."""

    name: str
    parts: tuple[Part, ...]
    fault: str = ""
    variant: str = "vllm-cpu"
    args: tuple[str, ...] = ()
    reference: str = REFERENCE


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

NUM_TOP = 5


def _topped(first_seed: int, num: int) -> tuple[Part, ...]:
    """Text and random ids at three concurrencies, with alternatives."""
    return tuple(
        Part(seed=first_seed + i, concurrency=concurrency, num=num, workload=name, num_top=NUM_TOP)
        for i, concurrency in enumerate((1, 8, 32))
        for name in ("text_tokens", "random_tokens")
    )


DTYPES = (
    Configuration(name="top-bf16", parts=(*_topped(300, 24), Part(seed=310, num=80, num_top=NUM_TOP))),
    *(
        Configuration(name=f"top-fault-{f}", fault=f, parts=(Part(seed=311, num=n, num_top=NUM_TOP),))
        for f, n in (("a", 8), ("b", 8), ("c", 8), ("e", 8), ("f", 80), ("g", 80))
    ),
    Configuration(name="top-fp16", args=("--dtype", "float16"), parts=_topped(320, 24)),
    Configuration(
        name="top-fp16-transformers",
        variant="transformers",
        args=("--dtype", "float16"),
        parts=(Part(seed=330, concurrency=1, num=16, num_top=NUM_TOP),),
    ),
    Configuration(name="top-fp32", variant="vllm-cpu-fp32", parts=_topped(340, 24), reference="transformers"),
    Configuration(
        name="top-fp32-sglang",
        variant="sglang-cpu-fp32",
        parts=(Part(seed=350, num=16, num_top=NUM_TOP),),
        reference="transformers",
    ),
)
"""Healthy engines of each dtype, and faults, with top logprobs: default floors and the limit of mean_kl."""

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
    *DTYPES,
)


@contextmanager
def serving(variant: str, fault: str = "", args: tuple[str, ...] = ()) -> Iterator[Running]:
    """A real engine of this variant, sabotaged or not."""
    chosen = registry.variant(variant)
    env = {"PYTHONPATH": str(PLUGIN), "SABOTAGE": fault} if fault else {}
    recipe = Recipe(question="", variants=(variant,), args=args, env=env)
    deployment = plan.deploy(chosen, models.resolve(MODEL), recipe, "process")
    deployment = msgspec.structs.replace(deployment, port=server.free_port())
    launch = plan.render(chosen, deployment)
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
    made, _ = workload.build(spec, load, vocabulary, num_verify=part.num)
    requests = tuple(msgspec.structs.replace(r, top_logprobs=part.num_top) for r in made)
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
    vocabulary = Vocabulary(models.resolve(MODEL).path)
    return [retokenise.sample(q, r, vocabulary) for q, r in zip(requests, records, strict=True)]


def collect(folder: Path, only: str = "") -> None:
    """Start every configuration (or those named) once and keep what it said."""
    for configuration in (c for c in CONFIGURATIONS if c.name.startswith(only)):
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
    """Replay everything through its reference."""
    for reference in dict.fromkeys(c.reference for c in CONFIGURATIONS):
        named = {c.name for c in CONFIGURATIONS if c.reference == reference}
        left = [
            path
            for path in sorted(folder.glob("*/*.requests.jsonl"))
            if path.parent.name in named and not _scored(path).exists()
        ]
        if left:
            with serving(reference) as running:
                for path in left:
                    _score(path, running, reference)


def _scored(path: Path) -> Path:
    return path.with_name(path.name.replace(".requests.", ".scores."))


def _score(path: Path, running: Running, reference: str) -> None:
    prompts = path.with_name(path.name.replace(".requests.", ".prompts."))
    asked = samples(tuple(store.read_lines(prompts, Request)), list(store.read_lines(path, RequestRecord)))
    began = time.monotonic()
    launch = running.launch
    options = replay.ReplayOptions(reference=reference)
    engine = registry.engine(launch.engine)
    keep(_scored(path), replay.score(launch.base_url, engine, launch.served_model_name, asked, options))
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
