"""The faults of tests/sampling/oracle.py on made-up distributions: no model, the right answer known exactly.

    python -m tests.sampling.synthetic FOLDER [NAME ...] [--requests N]

Logits are normal, 512 tokens, their spread drawn anew for each position, so that some are nearly certain and
some wide open. Runs where tests/sampling/oracle.py does, and leaves what it leaves.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import msgspec
import torch

from engines.transformers_sampling import Before, Choice, Drawn, Rows, before, measured, processed
from harness.correctness import replay
from harness.schema import Drawn as Told
from harness.schema import Sampler, Score
from tests.sabotage.campaign import keep
from tests.sampling.asked import ASKED
from tests.sampling.oracle import GROUP, SHOWN, Draw, choice_of, scenarios

SIZE, TOKENS, PROMPT, END = 512, 200, 20, 0
SPREAD = 4.0
LEFT_OUT = ("healthy bfloat16", "never ends")
"""These need a model."""


def said(logits: torch.Tensor, ids: torch.Tensor, choice: Choice, draw: Draw) -> torch.Tensor:
    """[requests, PROMPT + TOKENS]: prompts with what is drawn behind them."""
    for step in range(TOKENS):
        p = processed(logits[:, step], choice, _earlier(ids, choice), [END])
        ids = torch.cat([ids, draw(p, step)[:, None]], 1)
    return ids


def _earlier(ids: torch.Tensor, choice: Choice) -> Before | None:
    if not choice.penalises:
        return None
    here = range(ids.shape[1], ids.shape[1] + 1)
    rows = [before(row, PROMPT, here, SIZE) for row in ids.tolist()]
    return Before(*(torch.cat(parts) for parts in zip(*rows, strict=True)))


def scored(logits: torch.Tensor, samples: list[replay.Sample]) -> list[Score]:
    """What the distributions say of each."""
    return [_score(rows, sample) for rows, sample in zip(logits, samples, strict=True)]


def _score(logits: torch.Tensor, sample: replay.Sample) -> Score:
    drawn = msgspec.convert(replay.question_drawn(sample), Drawn)
    ids = [*sample.prompt_token_ids, *sample.output_token_ids]
    earlier = before(ids, PROMPT, range(PROMPT, len(ids)), SIZE) if drawn.choice.penalises else None
    targets = torch.tensor(sample.output_token_ids)
    columns, faults = measured(Rows(logits, None, targets, earlier, [END]), drawn, 0)
    told = msgspec.convert({**columns, "faults": faults}, Told)
    pairs = zip(sample.output_token_ids, sample.beside, strict=True)
    meets = tuple(float(token in others) for token, others in pairs)
    return Score(
        request_id=sample.request_id,
        reference="made-up distributions",
        prompt_token_ids=sample.prompt_token_ids,
        token_ids=sample.output_token_ids,
        logprob=tuple(columns["logprob"]),
        rank=(),
        margin=(0.0,) * TOKENS,
        drawn=msgspec.structs.replace(told, meets=meets),
        sampled=True,
    )


def main() -> None:
    """Every scenario that FOLDER does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("name", nargs="*")
    parser.add_argument("--requests", type=int, default=60)
    given = parser.parse_args()
    for label, sampling in ASKED.items():
        torch.manual_seed(1)
        spread = torch.rand(given.requests, TOKENS, 1) * SPREAD
        logits = torch.randn(given.requests, TOKENS, SIZE) * spread
        prompts = torch.randint(SIZE, (given.requests, PROMPT))
        for number, (name, one) in enumerate(scenarios(choice_of(sampling)).items()):
            path = given.folder / label / f"{name}.scores.jsonl"
            wanted = [n for n in SHOWN[label] if n not in LEFT_OUT and n in (given.name or SHOWN[label])]
            if path.exists() or name not in wanted:
                continue
            began = time.monotonic()
            ids = said(logits, prompts, one.choice, one.draw(number + 1)).tolist()
            samples = [
                replay.Sample(
                    request_id=f"r{i}",
                    prompt_token_ids=tuple(row[:PROMPT]),
                    output_token_ids=tuple(row[PROMPT:]),
                    sampling=sampling,
                )
                for i, row in enumerate(ids)
            ]
            groups = [samples[i : i + GROUP] for i in range(0, len(samples), GROUP)]
            ready = [s for group in groups for s in replay.drawn(group, Sampler())]
            path.parent.mkdir(parents=True, exist_ok=True)
            keep(path, scored(logits, ready))
            print(f"{label} {name}: {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
