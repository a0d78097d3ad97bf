"""Collects what healthy and sabotaged engines say, and what the reference thinks of it.

    python -m tests.sabotage.campaign collect FOLDER [NAME]   engines: one start per configuration
    python -m tests.sabotage.campaign score FOLDER            the reference: one start

FOLDER/<configuration>/<part>.requests.jsonl, .prompts.jsonl and .scores.jsonl (.forced.jsonl where the engine
scored given text). What is there is kept, so an interrupted campaign goes on. NAME stands for every
configuration whose name begins with it; without it, those of a CPU. SABOTAGE_MODEL is an alias or a folder,
SABOTAGE_COPIES the folder that tests/sabotage/checkpoints.py wrote. tests/sabotage/rates.py makes the table
of docs/CORRECTNESS.md of it; tests/sabotage/reading.py scores a whole campaign on a GPU.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from harness import client, models, registry, server, store, workload
from harness.correctness import replay, retokenise
from harness.planned import deploy, render
from harness.schema import Load, Recipe, Request, RequestRecord, Score, WorkloadSpec
from harness.server import Running
from harness.tokens import Vocabulary
from tests.sabotage.configurations import CONFIGURATIONS, CPU, Configuration, Part

PLUGIN = Path(__file__).parent / "plugin"
MODEL = os.environ.get("SABOTAGE_MODEL", "tiny-moe")
ENV = {"VLLM_USE_FLASHINFER_SAMPLER": "0", "FLASHINFER_USE_CUDA_NORM": "1"}
"""As the recipes of hosts without FlashInfer's own modules have it; an engine on a CPU reads neither."""
SHARE = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) - 1))}
"""As `bench` shares a CPU out: threads that wait for one another lose all their time where another works."""
COPIES = os.environ.get("SABOTAGE_COPIES", "/tmp/sabotaged")


@contextmanager
def serving(
    variant: str,
    fault: str = "",
    args: tuple[str, ...] = (),
    checkpoint: str = "",
    env: dict[str, str] | None = None,
) -> Iterator[Running]:
    """A real engine of this variant, sabotaged or not."""
    chosen = registry.variant(variant)
    env = {"PYTHONPATH": str(PLUGIN), "SABOTAGE": fault, **(env or {})} if fault else {}
    recipe = Recipe(
        question="",
        variants=(variant,),
        args=args,
        env=ENV | (SHARE if chosen.accelerator == "cpu" else {}) | env,
    )
    model = models.resolve(f"{COPIES}/{checkpoint}" if checkpoint else MODEL)
    deployment = deploy(chosen, model, recipe, "process")
    deployment = msgspec.structs.replace(deployment, port=server.free_port())
    launch = render(chosen, deployment)
    log = Path("/tmp") / f"sabotage-{variant}-{fault or checkpoint or 'healthy'}-{launch.port}.log"
    with server.serving(launch, log, "sabotage") as running:
        installed = "SABOTAGE" in log.read_text(errors="replace")
        if installed != bool(fault):
            raise RuntimeError(f"{log}: the sabotage plugin did {'' if installed else 'not '}load")
        yield running


def requests_of(part: Part) -> tuple[Request, ...]:
    """The part's requests, all asking for logprobs."""
    params = {"input_len": part.input_len, "output_len": part.output_len}
    spec = WorkloadSpec(name=part.workload, num_prompts=part.num, seed=part.seed, params=dict(params))
    load = Load(max_concurrency=part.concurrency)
    made, _ = workload.build(spec, load, Vocabulary(models.resolve(MODEL).path), num_verify=part.num)
    return tuple(msgspec.structs.replace(r, top_logprobs=part.num_top) for r in made)


def fire(running: Running, part: Part) -> tuple[tuple[Request, ...], list[RequestRecord]]:
    """The part's requests and their records, in order."""
    requests = requests_of(part)
    target = client.Target(
        base_url=running.launch.base_url,
        model=running.launch.served_model_name,
        extras=dict(getattr(registry.engine(running.launch.engine), "EXTRAS", {})),
    )
    records: dict[str, RequestRecord] = {}
    load = Load(max_concurrency=part.concurrency)
    client.fire(target, requests, load, lambda r: records.__setitem__(r.request_id, r))
    return requests, [records[r.request_id] for r in requests]


def forced(running: Running, part: Part) -> list[Score]:
    """What the engine says of the part's prompts, each token but the first given those before it."""
    asked = [
        replay.Sample(request_id=r.request_id, prompt_token_ids=ids[:1], output_token_ids=ids[1:])
        for r in requests_of(part)
        if (ids := r.prompt_token_ids)
    ]
    return _ask(running, asked, running.launch.variant, part.concurrency)


def _ask(running: Running, asked: list[replay.Sample], name: str, concurrency: int) -> list[Score]:
    launch = running.launch
    options = replay.ReplayOptions(reference=name, concurrency=concurrency)
    engine = registry.engine(launch.engine)
    return replay.score(launch.base_url, engine, launch.served_model_name, asked, options)


def samples(requests: tuple[Request, ...], records: list[RequestRecord]) -> list[replay.Sample]:
    """Every request as a sample for the replay."""
    vocabulary = Vocabulary(models.resolve(MODEL).path)
    return [retokenise.sample(q, r, vocabulary) for q, r in zip(requests, records, strict=True)]


def collect(folder: Path, only: str = "") -> None:
    """Start every configuration (or those named) once and keep what it said."""
    for configuration in (c for c in CONFIGURATIONS if c.name.startswith(only)) if only else CPU:
        keep_answers(folder / configuration.name, configuration)


def keep_answers(place: Path, configuration: Configuration) -> None:
    """One engine's life: every part that `place` does not hold."""
    left = [p for p in configuration.parts if not _kept(place, p).exists()]
    if not left:
        return
    chosen = (configuration.variant, configuration.fault, configuration.args, configuration.checkpoint)
    with serving(*chosen, configuration.env) as running:
        for part in left:
            began = time.monotonic()
            if part.forced:
                answers: Sequence[Score | RequestRecord] = forced(running, part)
            else:
                requests, answers = fire(running, part)
                keep(place / f"{part.name}.prompts.jsonl", requests)
            keep(_kept(place, part), answers)
            failed = sum(bool(r.error) for r in answers)
            print(f"{place.name} {part.name}: {time.monotonic() - began:.1f} s, {failed} failed", flush=True)


def _kept(place: Path, part: Part) -> Path:
    return place / f"{part.name}.{'forced' if part.forced else 'requests'}.jsonl"


def score(folder: Path) -> None:
    """Replay everything through its reference."""
    for reference in dict.fromkeys(c.reference for c in CPU):
        named = {c.name for c in CPU if c.reference == reference}
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
    began = time.monotonic()
    keep(_scored(path), _ask(running, asked(path), reference, replay.CONCURRENCY))
    print(f"{path.parent.name} {path.stem}: {time.monotonic() - began:.1f} s", flush=True)


def asked(path: Path) -> list[replay.Sample]:
    """What FOLDER/<configuration>/<part>.requests.jsonl holds, as samples for the replay."""
    prompts = path.with_name(path.name.replace(".requests.", ".prompts."))
    return samples(tuple(store.read_lines(prompts, Request)), list(store.read_lines(path, RequestRecord)))


def keep(path: Path, nouns: object) -> None:
    """One line each, the whole file or none."""
    partial = path.with_suffix(".partial")
    with store.RecordWriter(partial) as write:
        for noun in nouns:  # type: ignore[attr-defined]
            write(noun)
    partial.replace(path)


if __name__ == "__main__":
    {"collect": collect, "score": score}[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
