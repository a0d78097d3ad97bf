"""Faults of caches and drafts in one life of a real vLLM, and how many affected tokens show each.

    python -m tests.sabotage.reuse collect FOLDER [FAULT ...]   the engine: one start for all faults
    python -m tests.sabotage.reading FOLDER MODEL   the reference, where torch and transformers are
    python -m tests.sabotage.reuse table FOLDER     the power table of docs/CORRECTNESS.md

Prompts are three of four common blocks in drawn order and an end of their own, with few blocks of memory, so
that healthy caches hit, miss and evict all the time; a small draft model drafts three tokens a step.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import requests as http

from harness import client, models, registry, store
from harness.correctness import affected
from harness.correctness.affected import Output
from harness.correctness.floors import JudgeSettings
from harness.schema import Load, Request, RequestRecord, Score
from harness.tokens import Vocabulary
from tests.sabotage.campaign import MODEL, keep, serving
from tests.sabotage.configurations import REUSE

BLOCK = 32
ARGS = ("--block-size", "32", "--num-gpu-blocks-override", "56", "--max-model-len", "1024")
NUM, OUTPUT_LEN, CONCURRENCY = 44, 48, 8
BUDGETS = (500, 1000, 2000)
"""Affected tokens."""
DRAWS = 40


def requests_of(seed: int) -> tuple[Request, ...]:
    """All ask for logprobs."""
    draw = random.Random(f"reuse:{seed}")
    pool = Vocabulary(models.resolve(MODEL).path).plain_ids
    common = [tuple(draw.choices(pool, k=BLOCK)) for _ in range(4)]
    return tuple(
        Request(
            request_id=f"reuse-{seed}-{i}",
            prompt_token_ids=(*sum(draw.sample(common, 3), ()), *draw.choices(pool, k=24)),
            max_tokens=OUTPUT_LEN,
            logprobs=True,
        )
        for i in range(NUM)
    )


def collect(folder: Path, *faults: str) -> None:
    """Every fault (or those named), and health, in one engine's life; what is there is kept."""
    left = [(n, c, c.name.rpartition("_")[2]) for n, c in enumerate(REUSE)]
    left = [one for one in left if not faults or one[2] in faults]
    left = [one for one in left if not (folder / one[1].name / "drawn.requests.jsonl").exists()]
    word = (folder / "fault").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    word.write_text("healthy")
    with serving("vllm-cpu+prefix+draft", "reuse", ARGS, env={"SABOTAGE_FILE": str(word)}) as running:
        for number, configuration, fault in left:
            word.write_text(fault)
            http.post(f"{running.launch.base_url}/reset_prefix_cache", timeout=30).raise_for_status()
            target = client.Target(
                base_url=running.launch.base_url,
                model=running.launch.served_model_name,
                extras=dict(registry.engine("vllm").EXTRAS),
            )
            asked, records = requests_of(number), dict[str, RequestRecord]()
            load = Load(max_concurrency=CONCURRENCY)
            client.fire(target, asked, load, lambda r, kept=records: kept.__setitem__(r.request_id, r))
            place = folder / configuration.name
            place.mkdir(exist_ok=True)
            keep(place / "drawn.prompts.jsonl", asked)
            keep(place / "drawn.requests.jsonl", [records[r.request_id] for r in asked])
            hits = sum(r.cached_len > 0 for r in records.values())
            drafted = sum(r.accepted_len for r in records.values())
            print(f"{configuration.name}: {hits} hits, {drafted} drafted tokens accepted", flush=True)


def outputs(place: Path) -> list[Output]:
    """What one fault left."""
    scores = list(store.read_lines(place / "drawn.scores.jsonl", Score))
    return affected.outputs(scores, list(store.read_lines(place / "drawn.requests.jsonl", RequestRecord)), {})


def judged(
    drawn: Sequence[Output], name: str, num: int, settings: JudgeSettings
) -> tuple[affected.agreement.Agreement, int]:
    """On at most `num` affected tokens of whole outputs, in this order; and how many there were."""
    chosen, seen = list[Output](), 0
    for one in drawn:
        mask = affected.cached(one) if name == affected.CACHED else affected.drafted(one)
        if name == affected.OTHERS:
            mask = ~(affected.cached(one) | affected.drafted(one))
        if seen >= num:
            break
        if mask.any():
            chosen.append(one._replace(score=affected.part(one.score, mask)))
            seen += int(mask.sum())
    return affected.agreement.judge([c.score for c in chosen], (), settings=settings), seen


def table(folder: Path) -> None:
    """A line per fault and population: verdicts of DRAWS orders at each budget."""
    heads = " | ".join(f"{n:,}" for n in BUDGETS)
    print(f"| fault | tokens | there are | x rounding | {heads} |\n|---|---|--:|--:|{'---|' * len(BUDGETS)}")
    for configuration in REUSE:
        if not (folder / configuration.name / "drawn.scores.jsonl").exists():
            continue
        told, eight_bit = outputs(folder / configuration.name), "kv-fp8" in configuration.name
        settings = JudgeSettings(eight_bit=eight_bit)
        for name in (affected.CACHED, affected.DRAFTED, affected.OTHERS):
            whole, total = judged(told, name, 1 << 30, settings)
            noise = whole.statistics.get("noise_ratio")
            ratio = f"{noise.mean:.2f}" if noise else "-"
            cells = []
            for num in BUDGETS:
                found: Counter[str] = Counter()
                for draw in range(DRAWS):
                    order = random.Random(f"{draw}").sample(told, len(told))
                    found[judged(order, name, num, settings)[0].verdict] += 1
                cells.append(f"{found['FAIL'] / DRAWS:.0%} ({found['CANNOT TELL'] / DRAWS:.0%})")
            cells = [f"{total:,}", ratio, *cells]
            print(f"| {configuration.name} | {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    {"collect": collect, "table": table}[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
